// What a collective looks like: everything that must be equal on all members before one byte of a
// contribution counts, and its hash, the schema.
#pragma once

#include <cstdint>
#include <string>

#include "core/codec.hpp"
#include "core/dtype.hpp"
#include "core/ids.hpp"

namespace papilio {

enum class OpKind : std::uint8_t {
  allreduce = 1,  // tolerant or strict, see RoundShape::strict
  broadcast,
  allgather,
  barrier,
  reduce,
  reduce_scatter,
  alltoall,
  gather,
  scatter,
  message,  // point to point; in reports only
};
inline constexpr std::uint8_t kOpKindLast = 9;  // of a shape on the wire
std::string_view name(OpKind kind);

struct RoundShape {
  OpKind kind = OpKind::allreduce;
  ReduceOp op = ReduceOp::sum;
  DType dtype = DType::float32;
  bool strict = false;
  std::uint64_t numel = 0;        // elements of this rank's input
  double premul = 1.0;            // factor of PREMUL_SUM, else 1
  std::uint32_t root = 0;         // group rank, for rooted collectives
  std::uint64_t fingerprint = 0;  // hash of the user's fingerprint; 0 in strict collectives
  Codec codec = Codec::raw;       // of contributions and results; raw in strict collectives

  bool operator==(const RoundShape&) const = default;
};

inline constexpr std::size_t kShapeBytes = 40;  // encoded, core/shape_codec.hpp

// 64-bit hash of the shape, the group and the view. Never 0.
SchemaHash schemaOf(const RoundShape& shape, GroupId group, ViewNumber view);

// "allreduce SUM float32 numel=1024 fingerprint=0x…", for errors and events.
std::string describe(const RoundShape& shape);

}  // namespace papilio
