// Strict collectives as phases of pieces (engine::StrictRequest). Memory given by pointer belongs
// to the caller until the collective ends; scratch belongs to the request. Steps and bytes per rank
// (n ranks, S bytes per tensor) stand beside each. Outputs may lie where inputs are: what would be
// overwritten while it is still being sent is copied first.
#pragma once

#include <cstdint>
#include <vector>

#include "core/round_shape.hpp"
#include "engine/engine.hpp"

namespace papilio::pg {

// Where and how big.
struct Buffer {
  std::byte* data = nullptr;
  std::uint64_t bytes = 0;
};

struct Ring {
  std::uint32_t rank = 0;
  std::uint32_t size = 1;
};

// In place, over the m members that are left. Up to kDirectBytes: one step, (m-1) S sent. Above:
// reduce-scatter and all-gather over as many shards as members, two steps, 2 (m-1)/m S sent.
engine::StrictRequest strictAllreduce(Ring ring, const RoundShape& shape, Buffer tensor);
inline constexpr std::uint64_t kDirectBytes = 256 * 1024;

// One step; the root sends (n-1) S.
engine::StrictRequest strictBroadcast(Ring ring, const RoundShape& shape, Buffer tensor);
// The same, and a message from everybody to everybody that the data is there; goes on without the
// root (fault/tolerant_broadcast.hpp), then with more steps.
engine::StrictRequest tolerantBroadcast(Ring ring, const RoundShape& shape, Buffer tensor);
// One step, (n-1) S sent. `outputs` by rank.
engine::StrictRequest strictAllgather(Ring ring, const RoundShape& shape, Buffer input,
                                      const std::vector<Buffer>& outputs);
// One step; `outputs` only at the root.
engine::StrictRequest strictGather(Ring ring, const RoundShape& shape, Buffer input,
                                   const std::vector<Buffer>& outputs);
// One step; `inputs` only at the root.
engine::StrictRequest strictScatter(Ring ring, const RoundShape& shape, Buffer output,
                                    std::vector<Buffer> inputs);
// One step, S sent to the root, which reduces in rank order; the tensor changes at the root only.
engine::StrictRequest strictReduce(Ring ring, const RoundShape& shape, Buffer tensor);
// One step, (n-1) times an output's bytes sent.
engine::StrictRequest strictReduceScatter(Ring ring, const RoundShape& shape, Buffer output,
                                          const std::vector<Buffer>& inputs);
// One step; sizes may differ per pair and may be zero.
engine::StrictRequest strictAlltoall(Ring ring, const RoundShape& shape,
                                     const std::vector<Buffer>& outputs,
                                     std::vector<Buffer> inputs);
// One step without data.
engine::StrictRequest strictBarrier(Ring ring);

// The request as it is answered when nobody else is there: what would come from others is this
// rank's own piece where it sends one of that size, and else stays as it is.
engine::StrictRequest answeredAlone(engine::StrictRequest request);

}  // namespace papilio::pg
