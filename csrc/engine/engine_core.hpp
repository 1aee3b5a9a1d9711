// The one engine of a process: progress thread, lanes, peers, groups. Other threads post commands,
// or drive it while they wait for a collective; everything below "progress thread" belongs to the
// thread that holds the wheel.
#pragma once

#include <atomic>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engine/active_clock.hpp"
#include "engine/block_pool.hpp"
#include "engine/engine.hpp"
#include "engine/group_runtime.hpp"
#include "engine/nudge.hpp"
#include "engine/peer_link.hpp"
#include "engine/wheel.hpp"

namespace papilio::engine {

class EngineCore final : public Engine,
                         public std::enable_shared_from_this<EngineCore>,
                         private TransportObserver,
                         private ControlObserver,
                         private GroupHost {
 public:
  explicit EngineCore(EngineConfig config);
  ~EngineCore() override;

  void launch();  // throws std::runtime_error when a lane can not be opened

  std::string localRecord() const override { return record_; }
  std::shared_ptr<Group> createGroup(GroupConfig config) override;
  void meet(const std::string& record) override;
  std::pair<std::size_t, std::size_t> reachable(const std::vector<std::string>& records) override;
  void shutdown() override;
  StatsMap stats() const override;

  // Runs `command` on the progress thread, in order. False: the engine has stopped. Not `urgent`:
  // the caller calls drive() at once, nobody is woken.
  bool post(std::function<void()> command, bool urgent = true);
  // The calling thread does the progress thread's work until `done`, for `limit` at most. It comes
  // back earlier when another thread does that already, or the engine stops.
  void drive(const std::function<bool()>& done, Duration limit);
  // Runs `question` there and waits for the answer; `otherwise` when the engine has stopped or does
  // not answer within kAnswerLimit.
  template <class T>
  T ask(std::function<T()> question, T otherwise) {
    if (wheel_.held()) return question();
    auto answer = std::make_shared<std::promise<T>>();
    auto future = answer->get_future();
    if (!post([answer, question = std::move(question)] { answer->set_value(question()); })) {
      return otherwise;
    }
    if (future.wait_for(kAnswerLimit) != std::future_status::ready) return otherwise;
    try {
      return future.get();
    } catch (const std::future_error&) {  // stopped with the question still queued
      return otherwise;
    }
  }

  // Progress thread, for GroupHandle.
  GroupRuntime* group(GroupId id);
  void leave(GroupId id, bool for_next_view = false);
  void want(GroupId id, const Joiner& joiner);
  std::vector<PeerInfo> peersOf(const GroupRuntime& group) const;

 private:
  static constexpr auto kAnswerLimit = std::chrono::seconds(5);
  static constexpr Duration kLinger = 100ms;  // for data behind a goodbye or a broken lane
  static constexpr Duration kFlushLimit = 1s;
  static constexpr Duration kPingEvery = 1s;
  static constexpr Duration kConnectLimit = std::chrono::minutes(10);
  static constexpr std::uint64_t kStagingBudget = 24ULL << 20;
  static constexpr std::uint32_t kWindowMessages = 64;
  static constexpr std::uint32_t kMaxEarlyJoins = 1024;  // per peer
  // Fruitless wake-ups in a row after which the transport's descriptor is not trusted for a moment.
  static constexpr int kSpinLimit = 1000;
  static constexpr int kHearEvery = 4;     // steps
  static constexpr int kEndsLimit = 1000;  // yields
  static constexpr int kRefusalLimit = 20;
  static constexpr Duration kNap = 1ms;
  // Contributions are read where their sender has staged them. If the others do not come for so
  // long, they are copied: the sender's memory is not for waiting.
  static constexpr Duration kBorrowLimit = 20ms;
  // A waiting thread looks for so long whether something comes before it sleeps; a wake-up takes
  // about as long as a small message.
  static constexpr Duration kSpin = 200us;
  // Who has just driven is likely to come back: for so long nobody looks at the data lanes, if
  // nothing is open.
  static constexpr Duration kLease = 10ms;

  struct Slot {
    Outgoing message;
    PeerId peer;
  };
  struct GroupEntry {
    std::unique_ptr<GroupRuntime> runtime;
    std::shared_ptr<GroupShared> shared;
  };

  // engine_core.cpp: the loop
  void main(std::promise<void>& started);
  void openLanes();
  void attend();
  bool step();
  bool runCommands();
  void sleep();
  void doze(Duration planned);
  void hear(Duration limit);
  void advanceClock(ActiveTime::RealTime due = {});
  bool noCommands();
  void wakeProgress();
  void tickDue();
  Time nextDeadline() const;
  void after(Duration delay, std::function<void()> action);
  void teardown();
  // Runs `action`; an exception is logged instead of ending the process.
  template <class Action>
  void guarded(Action action) noexcept;

  // engine_drive.cpp: a thread in place of the progress thread
  bool driveUntil(const std::function<bool()>& done, ActiveTime::RealTime end);
  bool hearOfEnds(ActiveTime::RealTime end);
  bool dozeAsDriver(ActiveTime::RealTime end);
  void handBack();
  bool quiet() const;

  // engine_groups.cpp: groups and their readiness
  void addGroup(GroupConfig config, std::shared_ptr<GroupShared> shared);
  PeerId peerFor(const std::string& record);
  void announce(GroupRuntime& group, PeerLink& peer);
  void gotJoin(PeerLink& peer, GroupId id, const msg::Join& join);
  void connected(const PeerLink& peer, bool up);  // for those that want to join a group
  void finishLeave(GroupId id, Time deadline, bool for_next_view);
  void removeGroup(GroupId id);

  // engine_lanes.cpp: what the lanes report, and sending
  void onMessage(PeerId from, std::span<const std::byte> header,
                 std::span<const std::byte> payload) override;
  void onLaneFrame(PeerId from, std::span<const std::byte> frame) override;
  void onSendDone(SendToken token, bool delivered) override;
  void onPeerError(PeerId peer, const std::string& why) override;
  void onPeerUp(PeerId peer, const PeerHello& hello) override;
  void onPeerDown(PeerId peer, DownCause cause, const std::string& detail) override;
  void onFrame(PeerId peer, std::span<const std::byte> frame) override;
  void onPong(PeerId peer, Duration rtt) override;
  void takeFrame(PeerLink& peer, std::span<const std::byte> frame, Way way);
  void controlMessage(PeerLink& peer, std::span<const std::byte> bytes);
  void lost(PeerLink& peer, fault::Reason reason, const std::string& detail);
  void pumpDirty();
  void pump(PeerLink& peer);
  std::uint64_t windowOf(const PeerLink& peer) const;
  bool sendOne(PeerLink& peer);
  void dispatch(PeerLink& peer, Outgoing message);

  // GroupHost
  Time now() const override { return clock_.now(); }
  BlockPool& pool() override { return pool_; }
  BlockRef borrow(std::span<const std::byte> payload) override;
  void sendControl(PeerId to, const ControlMessage& message) override;
  void ping(PeerId to) override;
  void hasWork(PeerId to) override;
  void log(LogLevel level, const std::string& line) override;

  void count(const char* name, double by = 1) { counters_[name] += by; }
  StatsMap collectStats() const;

  EngineConfig config_;
  ProcessId self_;
  Incarnation incarnation_;
  std::string record_;
  std::thread thread_;
  std::mutex join_mutex_;
  int owner_pid_;  // a forked child has this object but not its thread

  // Shared with other threads.
  mutable std::mutex command_mutex_;
  std::vector<std::function<void()>> commands_;
  bool accepting_ = false;
  std::set<GroupId> group_ids_;  // in use
  // Threads that look at the commands before they sleep.
  std::atomic<int> awake_{1};
  std::atomic<bool> has_driver_{false};
  Nudge nudge_;  // wakes the driver
  Wheel wheel_;

  // Progress thread.
  std::deque<std::function<void()>> running_;  // commands taken over, not yet run
  ActiveTime clock_;
  BlockPool pool_{kStagingBudget};
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<ControlPlane> control_;
  std::deque<PeerLink> peers_;  // by PeerId
  std::map<std::string, PeerId> peer_by_record_;
  std::map<GroupId, GroupEntry> groups_;
  std::map<GroupId, std::map<PeerId, msg::Join>> pending_joins_;
  std::vector<std::pair<GroupId, Joiner>> wanted_;
  std::deque<Slot> slots_;
  std::vector<SendToken> free_slots_;
  std::vector<PeerId> dirty_;
  std::vector<PeerId> starved_;
  std::multimap<Time, std::function<void()>> timers_;
  StatsMap counters_;
  Time next_ping_{};
  Time due_{};  // nothing is to be done before, unless something happens
  bool stopping_ = false;
  bool stopped_ = false;        // the lanes are gone
  std::exception_ptr failure_;  // of a driver: the progress thread ends with it
  enum class Driver : std::uint8_t { none, awake, asleep };
  std::atomic<Driver> driver_{Driver::none};  // one that has lost the wheel leaves without it
  ActiveTime::RealTime driver_due_;           // when it wakes at the latest, while it is asleep
  ActiveTime::RealTime progress_due_;         // the same of the progress thread
  Time progress_until_{};                     // the same in active time
  bool leased_ = false;
  Time lease_until_{};
  Time driven_{};          // when a driver left last
  int refusals_ = 0;       // of arm(), in a row
  int steps_unheard_ = 0;  // since the control connections were looked at
  int idle_wakeups_ = 0;   // that came at once and brought nothing, in a row
};

}  // namespace papilio::engine
