#include "ucx_transport/ucx_transport.hpp"

#include <poll.h>

#include <array>
#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

#include "core/wire.hpp"
#include "ucx_transport/endpoint_table.hpp"
#include "ucx_transport/ucx_context.hpp"

namespace papilio::ucx {

namespace {

using engine::SendToken;

constexpr unsigned kMessageId = 1;
// In front of every header: who sends. Endpoints of the receiving side do not tell.
constexpr std::size_t kPreamble = sizeof(std::uint64_t);
constexpr std::size_t kMaxHeader = kPreamble + kMaxEncodedHeader;
constexpr int kProgressBatch = 64;
// Sends of a closed endpoint completed within 25 ms in all measurements.
constexpr auto kDrainTime = std::chrono::milliseconds(200);

class UcxTransport final : public engine::Transport {
 public:
  UcxTransport(Config config, engine::TransportObserver& observer)
      : config_(std::move(config)),
        observer_(observer),
        context_(openContext(config_)),
        worker_(openWorker(context_.get())),
        endpoints_(worker_.get()) {
    ucp_am_handler_param_t handler{};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                         UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = kMessageId;
    handler.cb = &UcxTransport::onReceive;
    handler.arg = this;
    check(ucp_worker_set_am_recv_handler(worker_.get(), &handler), "setting the receive handler");
    check(ucp_worker_get_efd(worker_.get(), &event_fd_), "getting the worker's event descriptor");
  }

  ~UcxTransport() override {
    if (pending_ == 0) return;
    // UCX still reads memory of sends that did not drain: destroying the worker under them could
    // crash. Shutdown comes at the end of the process's use of the lane, so keep it instead.
    static_cast<void>(worker_.release());
    static_cast<void>(context_.release());
    static_cast<void>(new std::deque<Slot>(std::move(slots_)));
  }

  std::vector<std::byte> localAddress() const override {
    ucp_address_t* address = nullptr;
    std::size_t size = 0;
    check(ucp_worker_get_address(worker_.get(), &address, &size), "getting the worker's address");
    const auto* bytes = reinterpret_cast<const std::byte*>(address);
    std::vector<std::byte> out(bytes, bytes + size);
    ucp_worker_release_address(worker_.get(), address);
    return out;
  }

  void connect(PeerId peer, ProcessId process, std::span<const std::byte> address) override {
    try {
      endpoints_.open(peer, process, address);
    } catch (const std::exception& error) {
      refused_.emplace_back(peer, error.what());
    }
  }

  void disconnect(PeerId peer, bool process_is_dead) override {
    // Force-closing the endpoint of a live peer can crash UCX 1.22 (ucx 12.1 A).
    if (process_is_dead) {
      endpoints_.close(peer);
      noteClose();
    } else {
      endpoints_.retire(peer);
    }
  }

  bool send(PeerId peer, std::span<const std::byte> header, std::span<const std::byte> payload,
            SendToken token) override {
    ucp_ep_h ep = endpoints_.get(peer);
    if (ep == nullptr || header.size() > kMaxHeader - kPreamble) return false;
    Slot& slot = takeSlot(token);
    std::memcpy(slot.header.data(), &config_.self.value, kPreamble);
    std::memcpy(slot.header.data() + kPreamble, header.data(), header.size());
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                         UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_DATATYPE |
                         UCP_OP_ATTR_FIELD_MEMORY_TYPE;
    param.flags = UCP_AM_SEND_FLAG_EAGER;
    param.datatype = ucp_dt_make_contig(1);
    param.memory_type = UCS_MEMORY_TYPE_HOST;
    param.cb.send = &UcxTransport::onSent;
    param.user_data = &slot;
    ++pending_;
    const ucs_status_ptr_t request =
        ucp_am_send_nbx(ep, kMessageId, slot.header.data(), kPreamble + header.size(),
                        payload.data(), payload.size(), &param);
    const bool refused = UCS_PTR_IS_ERR(request);
    if (!refused) sent_ += payload.size();
    if (UCS_PTR_IS_PTR(request)) return true;  // onSent will run
    freeSlot(slot);
    if (!refused) observer_.onSendDone(token, true);
    return !refused;
  }

  std::uint32_t progress() override {
    std::uint32_t events = 0;
    for (int i = 0; i < kProgressBatch && ucp_worker_progress(worker_.get()) != 0; ++i) ++events;
    rethrow();
    for (const auto& [peer, why] : endpoints_.takeFailures()) {
      ++events;
      noteClose();
      observer_.onPeerError(peer, why);
    }
    std::vector<std::pair<PeerId, std::string>> refused;
    refused.swap(refused_);
    for (const auto& [peer, why] : refused) {
      ++events;
      observer_.onPeerError(peer, why);
    }
    endpoints_.reap();
    return events;
  }

  int eventFd() const override { return event_fd_; }

  bool arm() override {
    // While an endpoint closes, UCX reports no events for the discarded work, not even when the
    // close itself claims to be done: keep progressing.
    if (!endpoints_.reap() || (pending_ != 0 && Clock::now() < drain_until_)) return false;
    if (failed_ || !refused_.empty() || endpoints_.hasFailures()) return false;
    return ucp_worker_arm(worker_.get()) == UCS_OK;
  }

  std::string laneName(PeerId peer) const override {
    ucp_ep_h ep = endpoints_.get(peer);
    if (ep == nullptr) return "none";
    std::array<ucp_transport_entry_t, 4> entries{};
    ucp_ep_attr_t attributes{};
    attributes.field_mask = UCP_EP_ATTR_FIELD_TRANSPORTS;
    attributes.transports.entries = entries.data();
    attributes.transports.num_entries = entries.size();
    attributes.transports.entry_size = sizeof(ucp_transport_entry_t);
    if (ucp_ep_query(ep, &attributes) != UCS_OK || attributes.transports.num_entries == 0) {
      return "ucx";
    }
    return std::string("ucx ") + entries[0].transport_name + "/" + entries[0].device_name;
  }

  void addStats(std::map<std::string, double>& out) const override {
    out["bytes.ucx.sent"] += static_cast<double>(sent_);
    out["bytes.ucx.received"] += static_cast<double>(received_);
  }

  bool shutdown(std::uint32_t limit_ms) override {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(limit_ms);
    endpoints_.closeAll();
    bool drained = false;
    while (!drained && std::chrono::steady_clock::now() < end) {
      const bool idle = ucp_worker_progress(worker_.get()) == 0;
      drained = endpoints_.reap() && pending_ == 0;
      // Closing goes on without events; waits of a millisecond leave the core to the others.
      pollfd event{event_fd_, POLLIN, 0};
      if (idle && !drained) poll(&event, 1, 1);
    }
    return drained;
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Slot {
    UcxTransport* transport = nullptr;
    SendToken token = 0;
    std::array<std::byte, kMaxHeader> header;
  };

  void noteClose() { drain_until_ = Clock::now() + kDrainTime; }

  Slot& takeSlot(SendToken token) {
    if (free_.empty()) free_.push_back(&slots_.emplace_back());
    Slot& slot = *free_.back();
    free_.pop_back();
    slot.transport = this;
    slot.token = token;
    return slot;
  }

  void freeSlot(Slot& slot) {
    --pending_;
    free_.push_back(&slot);
  }

  static void onSent(void* request, ucs_status_t status, void* user_data) noexcept {
    Slot& slot = *static_cast<Slot*>(user_data);
    UcxTransport& self = *slot.transport;
    const SendToken token = slot.token;
    self.freeSlot(slot);
    ucp_request_free(request);
    self.guarded([&] { self.observer_.onSendDone(token, status == UCS_OK); });
  }

  // Nothing may be thrown through UCX: progress() throws it on.
  template <class Action>
  void guarded(Action action) noexcept {
    try {
      action();
    } catch (...) {
      if (!failed_) failed_ = std::current_exception();
    }
  }
  void rethrow() {
    if (failed_) std::rethrow_exception(std::exchange(failed_, nullptr));
  }

  static ucs_status_t onReceive(void* arg, const void* header, std::size_t header_size, void* data,
                                std::size_t size, const ucp_am_recv_param_t* param) noexcept {
    auto& self = *static_cast<UcxTransport*>(arg);
    // Eager only: anything else is not one of ours.
    if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) return UCS_ERR_REJECTED;
    if (header_size < kPreamble) return UCS_OK;
    std::uint64_t process;
    std::memcpy(&process, header, kPreamble);
    const PeerId* peer = self.endpoints_.peerOf(ProcessId{process});
    if (peer == nullptr) return UCS_OK;
    const auto* bytes = static_cast<const std::byte*>(header);
    self.received_ += size;
    self.guarded([&] {
      self.observer_.onMessage(*peer, {bytes + kPreamble, header_size - kPreamble},
                               {static_cast<const std::byte*>(data), size});
    });
    return UCS_OK;
  }

  Config config_;
  engine::TransportObserver& observer_;
  ContextPtr context_;
  WorkerPtr worker_;
  EndpointTable endpoints_;
  int event_fd_ = -1;
  Clock::time_point drain_until_{};
  std::exception_ptr failed_;
  std::uint64_t pending_ = 0;
  std::uint64_t sent_ = 0;  // payload bytes
  std::uint64_t received_ = 0;
  std::deque<Slot> slots_;  // stable addresses: UCX reads headers out of them
  std::vector<Slot*> free_;
  std::vector<std::pair<PeerId, std::string>> refused_;
};

}  // namespace

std::unique_ptr<engine::Transport> makeTransport(Config config,
                                                 engine::TransportObserver& observer) {
  return std::make_unique<UcxTransport>(std::move(config), observer);
}

}  // namespace papilio::ucx
