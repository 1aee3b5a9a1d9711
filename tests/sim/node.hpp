// One simulated process: the protocol machine, a training loop, and bytes in memory. It performs
// the machine's effects in its own way (own queues, own arithmetic), so that it can serve as a
// second opinion on the engine. Its clock stands still while it is paused.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

#include "core/layout.hpp"
#include "fault/machine.hpp"
#include "sim/event_queue.hpp"
#include "sim/host_rounds.hpp"
#include "sim/network.hpp"
#include "sim/observer.hpp"
#include "sim/outbox.hpp"
#include "sim/random.hpp"
#include "sim/strict_work.hpp"
#include "sim/workload.hpp"

namespace papilio::sim {

inline constexpr GroupId kGroup{77};

struct Surroundings {
  EventQueue& queue;
  Network& network;
  Random& random;
  const Workload& work;
  Observer& observer;
  HostRounds& hosts;
};

class Node final : public Endpoint {
 public:
  enum class State : std::uint8_t { running, paused, crashed, left };

  Node(Surroundings world, Rank me, std::uint64_t seed);

  void start();
  // Faults.
  void crash();
  void pause();
  void resume();
  void leave();
  void ban(Rank rank, std::optional<Duration> term);
  void unban(Rank rank);
  void abort(const std::string& why);
  // Hard evidence about another process.
  void gone(Rank rank, fault::Reason reason, const std::string& evidence);

  // Endpoint.
  void arrives(DataMessage message) override;
  void arrivesControl(Rank from, SharedBytes frame) override;
  void connectionLost(Rank peer) override;

  Rank rank() const { return me_; }
  State state() const { return state_; }
  bool alive() const { return state_ == State::running || state_ == State::paused; }
  bool through() const { return finished_ == work_.ops.size() || stopped_; }
  bool stopped() const { return stopped_; }
  Seq entered() const { return Seq{next_ - 1}; }
  const fault::Machine& machine() const { return machine_; }
  std::uint64_t badHeaders() const { return bad_headers_; }
  // Bytes kept for other ranks, and what still waits to be sent.
  std::uint64_t contributionBytes() const;
  std::uint64_t mostContributionBytes() const { return most_contribution_bytes_; }
  std::uint64_t resultBytes() const;
  std::size_t queuedMessages() const;
  std::size_t unanswered() const;
  std::size_t openRounds() const { return locals_.size(); }

 private:
  static constexpr Duration kFlushLimit = 1s;
  static constexpr Duration kLinger = 100ms;

  struct Local {
    RoundShape shape;
    SchemaHash schema;
    Layout layout;
    Bytes tensor;
    fault::HostShare host;  // what the tensor is made of
    bool waits = false;     // for that: the round has not begun
    std::optional<StrictWork> strict;
    Time entered{};
    Instant entered_at{};
  };
  using Key = std::tuple<Seq, SchemaHash, ChunkIndex>;
  struct Kept {
    Rank rank;
    float weight;
    bool of_host;  // weighted already
    SharedBytes bytes;
  };
  struct KeptResult {
    SharedBytes bytes;
    std::uint32_t crc;
  };

  // node.cpp
  Time now() const;
  void run(const std::function<void()>& action);  // when running: act, perform effects, arm timer
  void arm();
  void fire(Instant when);
  void plan();  // schedules the next collective when one may start
  void enter();
  void begin();  // the rounds whose turn it is
  void begin(Seq seq, Local& local);
  void finishLeave(Instant limit);
  void take(const DataMessage& message);
  void takeControl(Rank from, const Bytes& frame);
  bool takePing(Rank from, const Bytes& frame);
  bool keep(Rank from, const DataHeader& header, const SharedBytes& payload);
  bool apply(const DataHeader& header, const Bytes& payload);
  bool place(Rank from, const DataHeader& header, const Bytes& payload);
  std::byte* chunkAt(Local& local, ChunkIndex chunk);
  void say(const std::string& line);
  // node_effects.cpp
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
  void settled(Seq seq, ChunkIndex chunk);
  // node_send.cpp
  void pump(Rank to);
  bool sendNext(Rank to);
  bool sendResult(Rank to);
  bool sendBlock(Rank to);
  bool sendContribution(Rank to);
  void transmit(Rank to, DataHeader header, SharedBytes payload);

  EventQueue& queue_;
  Network& network_;
  Random& random_;
  const Workload& work_;
  Observer& observer_;
  HostRounds& hosts_;
  Rank me_;
  const RankPlan& plan_;
  fault::Machine machine_;
  State state_ = State::running;
  std::map<Seq, Local> locals_;
  std::map<Key, std::vector<Kept>> contributions_;
  std::map<Key, KeptResult> results_;
  std::vector<Outbox> outboxes_;
  std::set<Rank> lost_;                       // their connection is gone
  std::vector<std::function<void()>> inbox_;  // came while paused
  Time active_{1s};                           // own clock at `since_`
  Instant since_{};
  std::uint64_t next_ = 1;  // seq of the next collective
  std::uint64_t begun_ = 0;
  std::map<Seq, std::vector<DataMessage>> early_;  // for rounds that have not begun here
  std::uint64_t finished_ = 0;
  bool planned_ = false;
  bool stopped_ = false;
  bool leaving_ = false;
  bool draining_ = false;
  std::optional<Instant> armed_;
  std::uint64_t bad_headers_ = 0;
  std::uint64_t most_contribution_bytes_ = 0;
};

}  // namespace papilio::sim
