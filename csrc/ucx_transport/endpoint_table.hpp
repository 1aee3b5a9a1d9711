// The endpoints of one worker and their life: open, failed, closing, closed.
#pragma once

#include <ucp/api/ucp.h>

#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/transport.hpp"

namespace papilio::ucx {

using engine::PeerId;

class EndpointTable {
 public:
  explicit EndpointTable(ucp_worker_h worker) : worker_(worker) {}

  // Throws std::runtime_error when UCX refuses the address.
  void open(PeerId peer, ProcessId process, std::span<const std::byte> address);
  // nullptr when there is no lane (any more).
  ucp_ep_h get(PeerId peer) const;
  const PeerId* peerOf(ProcessId process) const;
  // No sends from now on; the endpoint stays until it fails or closeAll().
  void retire(PeerId peer);
  // Tears the endpoint down; pending sends complete soon, with an error.
  void close(PeerId peer);
  void closeAll();
  // Frees finished close operations. True: none is under way.
  bool reap();
  // Peers whose endpoint failed since the last call, and why. Closes them.
  std::vector<std::pair<PeerId, std::string>> takeFailures();
  bool hasFailures() const { return !failures_.empty(); }

 private:
  enum class State : std::uint8_t { none, open, retired, failed, closed };
  struct Entry {
    EndpointTable* table = nullptr;
    PeerId peer;
    State state = State::none;
    ucp_ep_h ep = nullptr;
  };
  static void onError(void* entry, ucp_ep_h ep, ucs_status_t status) noexcept;
  void closeEntry(Entry& entry);
  Entry* find(PeerId peer);

  ucp_worker_h worker_;
  std::deque<Entry> entries_;  // stable addresses: UCX holds pointers to them
  std::unordered_map<PeerId, Entry*> by_peer_;
  std::unordered_map<ProcessId, PeerId> by_process_;
  std::vector<ucs_status_ptr_t> closing_;
  std::vector<std::pair<PeerId, std::string>> failures_;
};

}  // namespace papilio::ucx
