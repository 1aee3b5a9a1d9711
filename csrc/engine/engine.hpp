// The engine: one per process, one progress thread. Feeds events to the groups' protocol machines
// and performs their effects on the two lanes. Knows nothing of torch.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/ids.hpp"
#include "core/round_shape.hpp"
#include "core/time.hpp"
#include "core/view.hpp"
#include "engine/control_plane.hpp"
#include "engine/transport.hpp"
#include "fault/host_share.hpp"
#include "fault/options.hpp"
#include "fault/report.hpp"

namespace papilio::engine {

// How the engine gets its lanes; both factories run on the progress thread. The wheel outlives
// them.
struct LaneFactory {
  std::function<std::unique_ptr<Transport>(TransportObserver&, ProcessId self)> transport;
  std::function<std::unique_ptr<ControlPlane>(ControlObserver&, PeerHello self, Wheel&)> control;
};

enum class LogLevel : std::uint8_t { debug, info, warn, error, off };
using LogFn = std::function<void(LogLevel, const std::string& line)>;

struct EngineConfig {
  LaneFactory lanes;
  LogFn log;             // one line per event; called on the progress thread
  std::string versions;  // goes into the handshake
};

struct GroupConfig {
  std::string name;  // for people
  GroupId id;
  Rank rank;
  std::uint32_t size = 1;
  // ControlPlane::localRecord() of every member, by rank.
  std::vector<std::string> records;
  fault::GroupOptions options;
  std::size_t report_history = 256;
  // Called on the progress thread; must not block and must not take the interpreter lock.
  std::function<void(const fault::Event&)> on_event;
  // Membership. A group is one view; the next view is a group of its own (Group::boundary).
  ViewNumber view{1};
  std::uint64_t boundaries = 0;  // reached before this view
  ContributorSet absent;         // slots without a process; their records are not looked at
  fault::Reason absent_because = fault::Reason::dead;
  ContributorSet fresh;  // members that were not in the view before
  // Members with equal numbers share a host, by rank, and combine their data before the round
  // (Group::combined); empty: nobody does.
  std::vector<std::uint32_t> hosts;
};

// What a boundary says (fault/view_change.hpp).
struct Boundary {
  enum class Kind : std::uint8_t {
    pass,       // go on in this view
    install,    // `next` begins here
    expelled,   // `next` went on without this rank
    undecided,  // no agreement with `silent` in time
    ended,      // the group was aborted or destroyed
  };
  Kind kind = Kind::pass;
  NextView next;
  ContributorSet silent;
};

// How a collective ended. Exactly one per submission.
struct Completion {
  Seq seq;
  fault::Report report;
  fault::RoundError error;   // kind none: success
  std::optional<Rank> peer;  // of a message: the other side
};
// Runs once on the thread that drives the engine, after the last access to the user's memory. Must
// not block and must not take the interpreter lock.
using DoneFn = std::function<void(const Completion&)>;

// A tolerant all-reduce, in place. The memory stays valid until DoneFn has run.
struct AllreduceRequest {
  void* data = nullptr;
  RoundShape shape;  // numel, dtype, op, premul; kind allreduce, strict false
  // The round begins when combined() has been called. Until then the memory is the caller's.
  bool combines = false;
  // `data` is a ReferenceTable with this rank's row; afterwards it has those of the contributors
  // that the report names. Of a range that is local it is untouched: the values are the caller's
  // affair.
  bool by_reference = false;
  // Says that it is called right away: the data was combined before, as this says.
  std::optional<fault::HostShare> share = std::nullopt;
  bool awaited = false;  // the caller calls Group::drive() at once: nobody need be woken for it
};

// One step of a strict collective: what goes to and comes from every rank, then a local operation.
// All memory stays valid until DoneFn has run. Sizes may be zero. Entry of the own rank is unused.
struct StrictPhase {
  struct Piece {
    const std::byte* send = nullptr;
    std::uint64_t send_bytes = 0;
    std::byte* recv = nullptr;
    std::uint64_t recv_bytes = 0;
  };
  std::vector<Piece> pieces;                                // by rank
  std::function<void(const ContributorSet& members)> then;  // after the phase's data is complete
};
// A strict collective: every live member enters with the same shape, then the phases run in order.
// A rank that is dead at entry is left out of `members`; if its data is needed (`needs_all`, or it
// is in `needed`), the collective fails at once with PeerFailed.
struct StrictRequest {
  RoundShape shape;  // strict = true (false: a broadcast that outlives its root), fingerprint = 0
  std::vector<StrictPhase> phases;
  // Or the phases as a function of the members at entry. Runs on the progress thread: no big work.
  std::function<std::vector<StrictPhase>(const ContributorSet& members)> plan;
  bool needs_all = false;
  ContributorSet needed;
  std::uint64_t nbytes = 0;  // for the report
  bool awaited = false;      // as above
};

// One point-to-point message, to or from one rank. Messages between two ranks with one tag match in
// the order of both sides' submissions; a send ends when its memory is free, which takes a receive.
struct MessageRequest {
  bool sends = false;
  std::optional<Rank> peer;  // nullopt: receive from anybody
  std::int32_t tag = 0;
  std::byte* data = nullptr;
  std::uint64_t bytes = 0;
  RoundShape shape;      // for the report
  bool awaited = false;  // as above
};

struct PeerInfo {
  Rank rank;
  fault::PeerState state = fault::PeerState::live;
  Incarnation incarnation;
  std::string lane;
  std::string address;
  double rtt = 0;        // seconds; 0 when unknown
  double goodput = 0;    // bytes/s received from it; 0 when unknown
  double lag = 0;        // seconds behind the median member
  double last_seen = 0;  // seconds ago
};

struct BlacklistInfo {
  fault::BlacklistEntry entry;
  double since_seconds_ago = 0;
  std::optional<double> expires_in_seconds;
};

// Flat names ("rounds.complete", "bytes.shm.sent", …): monotonic counters and gauges.
using StatsMap = std::map<std::string, double>;

class Group;

// Thread-safe. Every call returns in bounded time.
class Engine {
 public:
  // Starts the progress thread; throws std::runtime_error when a lane can not be opened.
  static std::shared_ptr<Engine> start(EngineConfig config);
  virtual ~Engine() = default;

  // What this process publishes so that others can reach it.
  virtual std::string localRecord() const = 0;
  // Returns at once; see Group::waitReady.
  virtual std::shared_ptr<Group> createGroup(GroupConfig config) = 0;
  // Starts to connect to the process behind a record, before there is a common group.
  virtual void meet(const std::string& record) = 0;
  // How many of these processes are connected, and how many are that or may still be.
  virtual std::pair<std::size_t, std::size_t> reachable(
      const std::vector<std::string>& records) = 0;
  // Ends all groups (their rounds fail with `aborted`), says goodbye, joins the thread; < 2 s. Not
  // on the progress thread, so callbacks must not hold the last reference.
  virtual void shutdown() = 0;
  virtual StatsMap stats() const = 0;
};

inline constexpr std::uint64_t kMessageNumbers = 1ULL << 63;

class Group {
 public:
  virtual ~Group() = default;

  // Blocks until every member is up here, or gone for good, or `limit` (real time) passed.
  // Returns the ranks that are neither up nor gone, and those that could never be met (wrong
  // secret, unreachable: known before the limit), each with the reason: empty means ready.
  virtual std::map<Rank, std::string> waitReady(Duration limit) = 0;
  // Issue order is program order. Sequence numbers start at 1. Never blocks.
  virtual Seq submit(AllreduceRequest request, std::optional<Duration> timeout, DoneFn done) = 0;
  virtual Seq submit(StrictRequest request, std::optional<Duration> timeout, DoneFn done) = 0;
  // Numbered apart from the collectives, with kMessageNumbers added.
  virtual Seq submit(MessageRequest request, std::optional<Duration> timeout, DoneFn done) = 0;
  // The calling thread does the progress thread's work until `done`, for `limit` (real time) at
  // most. It may come back earlier, when another thread does that already. What is called while it
  // does is called on this thread; it must not hold the interpreter lock.
  virtual void drive(const std::function<bool()>& done, Duration limit) = 0;
  // The ranks of this host have combined their data, as `share` says, in place; or they could not,
  // and the memory is as it was. Later collectives of this rank begin after that one.
  virtual void combined(Seq seq, fault::HostShare share) = 0;
  // Ends one round or message early with this error; a round that already ended is left alone.
  virtual void cancel(Seq seq, fault::ErrorKind kind, const std::string& text) = 0;
  // Ends all rounds with `aborted` and refuses new ones (they complete with `aborted`).
  virtual void abort(const std::string& why) = 0;
  // Flushes results owed to live members (at most 1 s), leaves the group. Idempotent.
  virtual void leave() = 0;
  // Leaves for the group's next view, without waiting for it.
  virtual void retire() = 0;
  virtual bool aborted() const = 0;

  // The local rank stands between two training steps. Costs nothing while no change of members is
  // under way; else blocks until it is clear what this boundary is, a few times patience at most.
  virtual Boundary boundary() = 0;
  // The process behind the record asks for a slot. It is let in when it is connected.
  virtual void want(const Joiner& joiner) = 0;
  // Goes on without members that did not come to this view.
  virtual void giveUpOn(const ContributorSet& ranks, const std::string& why) = 0;

  // Blocking queries answered by the progress thread.
  virtual std::vector<PeerInfo> peers() = 0;
  virtual std::vector<BlacklistInfo> blacklist() = 0;
  virtual void ban(Rank rank, const std::string& reason, std::optional<Duration> term) = 0;
  virtual void unban(Rank rank) = 0;
  virtual std::vector<fault::Report> reports(std::size_t last) = 0;  // oldest first
  virtual std::optional<fault::Report> report(Seq seq) = 0;
  // What became of a collective after its round: replaces its report. Any thread, never blocks.
  virtual void correct(const fault::Report& report) = 0;
  virtual StatsMap stats() = 0;
};

}  // namespace papilio::engine
