#include "ucx_transport/endpoint_table.hpp"

#include "ucx_transport/ucx_context.hpp"

namespace papilio::ucx {

void EndpointTable::open(PeerId peer, ProcessId process, std::span<const std::byte> address) {
  if (address.empty()) throw std::runtime_error("the peer sent no address of its data lane");
  Entry& entry = entries_.emplace_back();
  entry.table = this;
  entry.peer = peer;
  by_peer_[peer] = &entry;
  by_process_[process] = peer;
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &EndpointTable::onError;
  params.err_handler.arg = &entry;
  check(ucp_ep_create(worker_, &params, &entry.ep), "opening the lane to a peer");
  entry.state = State::open;
}

void EndpointTable::onError(void* raw, ucp_ep_h, ucs_status_t status) noexcept {
  auto& entry = *static_cast<Entry*>(raw);
  // Only noted here: UCX does not allow closing inside its callback. The status does not tell a
  // dead process from a broken path (ucx 12.1), so nobody branches on it.
  if (entry.state != State::open && entry.state != State::retired) return;
  entry.state = State::failed;
  entry.table->failures_.emplace_back(entry.peer, ucs_status_string(status));
}

EndpointTable::Entry* EndpointTable::find(PeerId peer) {
  const auto it = by_peer_.find(peer);
  return it == by_peer_.end() ? nullptr : it->second;
}

ucp_ep_h EndpointTable::get(PeerId peer) const {
  const auto it = by_peer_.find(peer);
  if (it == by_peer_.end() || it->second->state != State::open) return nullptr;
  return it->second->ep;
}

const PeerId* EndpointTable::peerOf(ProcessId process) const {
  const auto it = by_process_.find(process);
  return it == by_process_.end() ? nullptr : &it->second;
}

void EndpointTable::retire(PeerId peer) {
  Entry* entry = find(peer);
  if (entry != nullptr && entry->state == State::open) entry->state = State::retired;
}

void EndpointTable::close(PeerId peer) {
  if (Entry* entry = find(peer)) closeEntry(*entry);
}

void EndpointTable::closeEntry(Entry& entry) {
  if (entry.ep == nullptr || entry.state == State::closed) return;
  entry.state = State::closed;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(entry.ep, &param);
  if (UCS_PTR_IS_PTR(request)) closing_.push_back(request);
}

void EndpointTable::closeAll() {
  for (auto& entry : entries_) closeEntry(entry);
}

bool EndpointTable::reap() {
  std::erase_if(closing_, [](ucs_status_ptr_t request) {
    if (ucp_request_check_status(request) == UCS_INPROGRESS) return false;
    ucp_request_free(request);
    return true;
  });
  return closing_.empty();
}

std::vector<std::pair<PeerId, std::string>> EndpointTable::takeFailures() {
  std::vector<std::pair<PeerId, std::string>> out;
  out.swap(failures_);
  for (const auto& [peer, why] : out) close(peer);
  return out;
}

}  // namespace papilio::ucx
