// One group inside the engine: its protocol machine, the bytes the machine talks about, and what is
// to be sent to whom. Belongs to who drives the engine, except GroupShared.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/layout.hpp"
#include "core/wire.hpp"
#include "engine/block_pool.hpp"
#include "engine/codec.hpp"
#include "engine/engine.hpp"
#include "engine/error_feedback.hpp"
#include "engine/outbox.hpp"
#include "engine/round_buffers.hpp"
#include "engine/test_damage.hpp"
#include "engine/test_hook.hpp"
#include "fault/machine.hpp"
#include "fault/p2p.hpp"
#include "fault/view_change.hpp"

namespace papilio::engine {

// What a group needs of the engine around it.
class GroupHost {
 public:
  virtual ~GroupHost() = default;
  virtual Time now() const = 0;
  virtual BlockPool& pool() = 0;
  // The payload that is being handled, where it lies; empty: it has to be copied.
  virtual BlockRef borrow(std::span<const std::byte> payload) = 0;
  virtual void sendControl(PeerId to, const ControlMessage& message) = 0;
  virtual void ping(PeerId to) = 0;     // its progress thread answers, if it runs
  virtual void hasWork(PeerId to) = 0;  // produce() has something for that peer
  virtual void log(LogLevel level, const std::string& line) = 0;
};

// The part of a group that other threads read.
struct GroupShared {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<Rank, std::string> not_ready;  // ranks that are neither up nor gone, and why
  std::map<Rank, std::string> refused;    // ranks that this one could never meet, and why
  std::deque<fault::Report> reports;      // newest last
  bool aborted = false;
  bool left = false;
  std::atomic<std::uint64_t> boundaries{0};  // that the local rank has reached
  std::atomic<bool> asks{false};             // it must wait at each for an answer
};

// A message ready for the lane.
struct Outgoing {
  EncodedHeader header;
  BlockRef payload;
};

class GroupRuntime {
 public:
  using Clock = std::chrono::steady_clock;

  // `peers`: by rank; the own entry is unused.
  GroupRuntime(GroupHost& host, GroupConfig config, std::vector<PeerId> peers,
               Incarnation incarnation, std::shared_ptr<GroupShared> shared);

  // The local rank.
  void allreduce(Seq seq, const AllreduceRequest& request, Duration timeout,
                 Clock::time_point issued, DoneFn done);
  void strict(Seq seq, StrictRequest request, Duration timeout, Clock::time_point issued,
              DoneFn done);
  void combined(Seq seq, fault::HostShare share);
  // A point-to-point message; `id` as Group::submit() returns it.
  void exchange(Seq id, const MessageRequest& request, Duration timeout, Clock::time_point issued,
                DoneFn done);
  void cancel(Seq seq, fault::ErrorKind kind, const std::string& text);
  void abort(const std::string& why);
  // For what abort() could not end because the machine failed: every DoneFn still runs.
  void abandon(const std::string& why);
  void ban(Rank rank, std::optional<Duration> term, const std::string& why);
  void unban(Rank rank);

  // group_views.cpp: membership. `answer` runs once, here or later.
  void boundary(std::uint64_t step, std::function<void(const Boundary&)> answer);
  void want(const Joiner& joiner);
  void unwant(const Joiner& joiner);

  // Peers.
  void joined(Rank rank, Incarnation incarnation);
  void gone(Rank rank, fault::Reason reason, const std::string& evidence);
  void control(Rank from, const ControlBody& body);
  void message(Rank from, const DataHeader& header, std::span<const std::byte> payload);
  void paused(Duration gap);
  void answered(Rank rank);  // a ping
  void tick();
  Time nextDeadline() const {
    return std::min({machine_.nextDeadline(), p2p_.nextDeadline(), views_.nextDeadline()});
  }

  // Fills `out` with the next message for `to`. False: nothing, or no staging memory now
  // (`starved`).
  bool produce(Rank to, Outgoing& out, bool& starved);
  // What produce() filled in has been given to the lane.
  void posted() { hook_.posted(); }
  // Nothing owed to a live rank any more.
  bool flushed() const;
  // Nothing is under way here.
  bool quiet() const {
    return locals_.empty() && queue_.empty() && messages_.empty() && !views_.engaged() && flushed();
  }

  const GroupConfig& config() const { return config_; }
  const fault::Machine& machine() const { return machine_; }
  PeerId peerOf(Rank rank) const { return peers_[rank.value]; }
  std::optional<Rank> rankOf(PeerId peer) const;
  bool hasJoined(Rank rank) const { return joined_.contains(rank); }
  StatsMap stats() const;
  std::vector<BlacklistInfo> blacklist() const;

 private:
  // A collective of the local rank that has not ended: the only place that knows user memory.
  struct Local {
    std::byte* data = nullptr;  // tolerant
    RoundShape shape;
    SchemaHash schema;
    Layout layout;
    std::vector<fault::ReportChunk> ranges;  // fault::HostShare
    std::optional<StrictRequest> strict;
    Clock::time_point issued;
    DoneFn done;
  };

  Layout layoutOf(const RoundShape& shape, Seq seq) const;
  void drain();
  void perform(const fault::effect::SendContribution& e);
  void perform(const fault::effect::DropContributions& e);
  void perform(const fault::effect::SendResult& e);
  void perform(const fault::effect::SendHeld& e);
  void perform(const fault::effect::Relay& e);
  void perform(const fault::effect::Reduce& e);
  void perform(const fault::effect::ApplyOwn& e);
  void perform(const fault::effect::FillLocal& e);
  void perform(const fault::effect::SendControl& e);
  void perform(fault::effect::Finish& e);
  void perform(const fault::effect::Forget& e);
  void perform(const fault::effect::Discard& e);
  void perform(const fault::effect::SendBlocks& e);
  void perform(const fault::effect::RunPhase& e);
  void perform(const fault::effect::Notify& e);
  void perform(const fault::effect::Ping& e);

  ContributorSet reduceInto(const fault::effect::Reduce& e, const RoundShape& shape,
                            std::uint64_t numel, std::byte* out);
  // What is averaged, by sender; `weights` are those of the data behind it.
  struct ReduceSet {
    std::vector<CodedInput> inputs;
    std::vector<double> weights;
    std::vector<Rank> ranks;
  };
  void reduceInputs(const RoundShape& shape, std::uint64_t numel, ReduceSet& set, std::byte* out);
  static void joinReferences(const ReduceSet& set, std::byte* out, bool* bad);
  Factor factorFor(const RoundShape& shape, double weight_sum) const;
  void release(Seq seq, ChunkIndex chunk, Rank owner);

  bool produceResult(Rank to, Outgoing& out, bool& starved);
  bool produceBlock(Rank to, Outgoing& out, bool& starved);
  bool produceMessage(Rank to, Outgoing& out, bool& starved);
  bool produceContribution(Rank to, Outgoing& out, bool& starved);
  void seal(DataHeader header, Outgoing& out) const;
  // Stages `bytes` and its checksum; false without memory.
  bool stage(std::span<const std::byte> bytes, Outgoing& out, DataHeader& header);

  // group_host.cpp: rounds that begin when this host has combined its data.
  struct Queued {
    bool waits = false;
    std::byte* data = nullptr;  // tolerant
    RoundShape shape;
    fault::HostShare share;
    DoneFn done;
    std::function<void(Queued&)> begin;
    fault::ErrorKind ended = fault::ErrorKind::none;  // meanwhile, and why
    std::string why;
  };
  struct Early {
    Rank from;
    DataHeader header;
    BlockRef payload;
  };
  void beginAllreduce(Seq seq, const AllreduceRequest& request, Duration timeout,
                      Clock::time_point issued, DoneFn done, fault::HostShare share);
  void beginStrict(Seq seq, StrictRequest request, Duration timeout, Clock::time_point issued,
                   DoneFn done);
  void beginReady();
  void tellCombining();
  void endQueued(Seq seq, Queued entry, fault::ErrorKind kind, const std::string& text);
  void endQueue(fault::ErrorKind kind, const std::string& text);
  void keepEarly(Rank from, const DataHeader& header, std::span<const std::byte> payload);
  void takeEarly(Seq seq);
  void makeWhole(const std::vector<fault::ReportChunk>& ranges, const RoundShape& shape,
                 std::byte* data, std::uint64_t start, std::uint64_t stop) const;
  bool sums(const RoundShape& shape) const {  // what this group makes is not divided
    return config_.options.of_host && fault::combinedIsSum(shape.dtype);
  }

  // group_codec.cpp: chunks as they travel.
  enum class Staged : std::uint8_t { contribution, result };
  bool stageChunk(Seq seq, const Local& local, ChunkIndex chunk, Staged what, Outgoing& out,
                  DataHeader& header);
  std::uint32_t encodeChunk(Seq seq, const Local& local, ChunkIndex chunk, Staged what,
                            std::byte* out);
  void decodeChunk(const Local& local, ChunkIndex chunk, const std::byte* payload);
  bool hasResidual(const Local& local, ChunkIndex chunk) const;
  ErrorFeedback::Source sourceOf(Seq seq, const Local& local, ChunkIndex chunk) const;

  // group_p2p.cpp
  struct Message {
    std::byte* data = nullptr;
    std::uint64_t bytes = 0;
    RoundShape shape;
    Clock::time_point issued;
    DoneFn done;
  };
  void drainMessages();
  void piece(Rank from, const DataHeader& header, std::span<const std::byte> payload);
  void perform(const fault::p2p::SendControl& e);
  void perform(const fault::p2p::SendBlocks& e);
  void perform(const fault::p2p::Finish& e);

  // group_views.cpp
  void changeView(const std::function<void(std::uint64_t reached)>& event);
  void answerBoundary(Boundary answer);
  void perform(const fault::view::SendControl& e);
  void perform(const fault::view::Pass& e);
  void perform(const fault::view::Install& e);
  void perform(const fault::view::Expelled& e);
  void perform(const fault::view::Undecided& e);
  void announceView();

  std::uint32_t mostKept() const;
  bool keep(Rank from, const DataHeader& header, std::span<const std::byte> payload);
  bool apply(const DataHeader& header, std::span<const std::byte> payload);
  bool place(Rank from, const DataHeader& header, std::span<const std::byte> payload);
  std::byte* chunkData(const Local& local, ChunkIndex chunk) const;
  void settleReady();
  std::string prefix(Seq seq) const;

  GroupHost& host_;
  GroupConfig config_;
  std::vector<PeerId> peers_;
  Incarnation incarnation_;
  std::shared_ptr<GroupShared> shared_;
  fault::Machine machine_;
  fault::P2p p2p_;
  fault::ViewChange views_;
  std::function<void(const Boundary&)> boundary_;  // the local rank waits for it
  std::map<Seq, Message> messages_;                // of the local rank, not over
  RoundBuffers buffers_;
  ErrorFeedback feedback_;
  std::vector<Outbox> outboxes_;  // by rank
  std::map<Seq, Local> locals_;
  std::map<Seq, Queued> queue_;  // not begun, in the order of the calls
  std::deque<Early> early_;      // results for them
  std::uint64_t early_bytes_ = 0;
  ContributorSet joined_;
  std::uint32_t block_bytes_;
  std::uint64_t nonfinite_dropped_ = 0;
  std::uint64_t flooded_ = 0;  // contributions beyond what credits allow
  bool draining_ = false;
  TestHook hook_;
  TestDamage damage_;
};

}  // namespace papilio::engine
