// What adds up tensors of one host's ranks, in host memory, before a round of the whole group: a
// round of their own in the engine (engine_combiner.hpp), or anything else that can say whose data
// the sum is. For tensors on a device see host_backend.hpp.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "engine/engine.hpp"

namespace papilio::pg {

class HostCombiner {
 public:
  // The memory is not touched any more. A share that combined nothing: the memory is as it was, and
  // the rank takes part in the round with its own data.
  using Then = std::function<void(fault::HostShare)>;

  virtual ~HostCombiner() = default;
  // In place: sums of the weighted tensors, or weighted means (fault::combinedIsSum). `seq` names
  // the round that it is for. All ranks of the host call in the same order. Never blocks; `then`
  // runs once, on any thread, in bounded time whatever the other ranks do.
  virtual void combine(Seq seq, const engine::AllreduceRequest& request,
                       std::optional<Duration> timeout, Then then) = 0;
  // Ends one soon; `then` still runs.
  virtual void cancel(Seq seq, const std::string& why) = 0;
  // Ends all; when it has returned, no memory is touched that `then` has not been called for.
  virtual void abort(const std::string& why) = 0;
  virtual void leave() = 0;
  // The user's opinion on a member of the whole group.
  virtual void ban(Rank rank, const std::string& reason, std::optional<Duration> term) = 0;
  virtual void unban(Rank rank) = 0;
  virtual engine::StatsMap stats() = 0;
};

}  // namespace papilio::pg
