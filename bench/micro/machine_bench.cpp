// Protocol alone: n machines in one thread, no bytes, messages handed over at once. What is left is
// the bookkeeping that every round costs beside its data.
#include <benchmark/benchmark.h>

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "core/layout.hpp"
#include "fault/machine.hpp"

namespace papilio {
namespace {

using namespace fault;

constexpr GroupId kGroup{77};
constexpr ViewNumber kView{1};

class Mesh {
 public:
  Mesh(std::uint32_t n, std::uint64_t numel) {
    shape_.numel = numel;
    schema_ = schemaOf(shape_, kGroup, kView);
    for (std::uint32_t r = 0; r < n; ++r) {
      MachineConfig config;
      config.group = kGroup;
      config.view = kView;
      config.me = Rank{r};
      config.size = n;
      machines_.push_back(std::make_unique<Machine>(config));
    }
    for (std::uint32_t r = 0; r < n; ++r) {
      for (std::uint32_t peer = 0; peer < n; ++peer) {
        if (peer != r) machines_[r]->peerUp(now_, Rank{peer}, Incarnation{peer + 1});
      }
    }
    settle();
  }

  // One all-reduce on all ranks; false if it did not end complete on every one of them.
  bool round() {
    ++seq_.value;
    now_ += 1ms;
    complete_ = 0;
    layout_ = Layout(shape_.numel, elementSize(shape_.dtype), size(), seq_);
    for (auto& machine : machines_) machine->enterAllreduce(now_, seq_, shape_, 60s);
    settle();
    for (auto& machine : machines_) machine->tick(now_);
    settle();
    return complete_ == size();
  }

  std::uint64_t messages() const { return messages_; }
  std::uint32_t chunks() const { return layout_.chunkCount(); }

 private:
  struct Message {
    Rank from, to;
    DataHeader header;
    std::unique_ptr<ControlBody> control;
  };

  std::uint32_t size() const { return static_cast<std::uint32_t>(machines_.size()); }

  void settle() {
    for (bool again = true; again;) {
      again = false;
      for (std::uint32_t r = 0; r < size(); ++r) {
        for (auto& e : machines_[r]->takeEffects()) {
          again = true;
          std::visit([&](auto& effect) { perform(Rank{r}, effect); }, e);
        }
      }
      for (; !queue_.empty(); queue_.pop_front()) deliver(queue_.front());
    }
  }

  void deliver(const Message& message) {
    Machine& to = *machines_[message.to.value];
    ++messages_;
    if (message.control) return to.control(now_, message.from, *message.control);
    if (to.judge(now_, message.from, message.header) != Admission::drop) {
      to.accepted(now_, message.from, message.header, true);
    }
  }

  void send(Rank from, Rank to, DataHeader header) {
    header.group = kGroup;
    header.view = kView;
    header.src = from;
    header.incarnation = Incarnation{from.value + 1};
    header.payload_bytes = static_cast<std::uint32_t>(layout_.bytes(header.chunk));
    queue_.push_back({from, to, header, nullptr});
  }

  void perform(Rank me, const effect::SendContribution& e) {
    DataHeader header;
    header.type = MessageType::contribution;
    header.seq = e.seq;
    header.schema = schema_;
    header.chunk = e.chunk;
    header.attempt = e.attempt;
    header.shape = shape_;
    send(me, e.to, header);
  }
  void perform(Rank me, const effect::SendResult& e) {
    DataHeader header = machines_[me.value]->resultHeader(e.seq, e.schema, e.chunk);
    header.flags |= e.flags;
    send(me, e.to, header);
  }
  void perform(Rank me, const effect::SendHeld& e) {
    send(me, e.to, machines_[me.value]->heldHeader(e.seq, e.chunk));
  }
  void perform(Rank me, const effect::Reduce& e) {
    machines_[me.value]->reduced(now_, e.seq, e.schema, e.chunk, e.contributors);
  }
  void perform(Rank me, effect::SendControl& e) {
    queue_.push_back({me, e.to, {}, std::make_unique<ControlBody>(std::move(e.body))});
  }
  void perform(Rank, const effect::Finish& e) {
    complete_ += !e.error && e.report.outcome == Outcome::complete;
  }
  template <class Other>
  void perform(Rank, const Other&) {}  // bytes: there are none

  RoundShape shape_;
  SchemaHash schema_;
  Layout layout_;
  Seq seq_;
  Time now_{1s};
  std::uint32_t complete_ = 0;
  std::uint64_t messages_ = 0;
  std::vector<std::unique_ptr<Machine>> machines_;
  std::deque<Message> queue_;
};

void machineRound(benchmark::State& state) {
  Mesh mesh(static_cast<std::uint32_t>(state.range(0)),
            static_cast<std::uint64_t>(state.range(1)) / 4);
  for (auto _ : state) {
    if (!mesh.round()) state.SkipWithError("a round did not end complete");
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(mesh.messages()));
  state.counters["chunks"] = mesh.chunks();
  state.counters["messages"] =
      static_cast<double>(mesh.messages()) / static_cast<double>(state.iterations());
}
BENCHMARK(machineRound)
    ->ArgNames({"ranks", "bytes"})
    ->ArgsProduct({{2, 4, 16}, {1 << 10, 1 << 20, 64 << 20}})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace papilio
