#include "core/round_shape.hpp"

#include <bit>
#include <cstdio>

#include "core/hash.hpp"

namespace papilio {

std::string_view name(OpKind kind) {
  switch (kind) {
    case OpKind::allreduce: return "allreduce";
    case OpKind::broadcast: return "broadcast";
    case OpKind::allgather: return "allgather";
    case OpKind::barrier: return "barrier";
    case OpKind::reduce: return "reduce";
    case OpKind::reduce_scatter: return "reduce_scatter";
    case OpKind::alltoall: return "alltoall";
    case OpKind::gather: return "gather";
    case OpKind::scatter: return "scatter";
    case OpKind::message: return "message";
  }
  return "unknown collective";
}

SchemaHash schemaOf(const RoundShape& shape, GroupId group, ViewNumber view) {
  std::uint64_t h = hashCombine(group.value, view.value);
  h = hashCombine(h, static_cast<std::uint64_t>(shape.kind));
  h = hashCombine(h, static_cast<std::uint64_t>(shape.op));
  h = hashCombine(h, static_cast<std::uint64_t>(shape.dtype));
  h = hashCombine(h, shape.strict ? 1 : 0);
  h = hashCombine(h, shape.numel);
  h = hashCombine(h, std::bit_cast<std::uint64_t>(shape.premul));
  h = hashCombine(h, shape.root);
  h = hashCombine(h, shape.fingerprint);
  if (shape.codec != Codec::raw) h = hashCombine(h, static_cast<std::uint64_t>(shape.codec));
  return SchemaHash{h == 0 ? 1 : h};
}

std::string describe(const RoundShape& shape) {
  std::string out{name(shape.kind)};
  if (shape.kind == OpKind::allreduce) {
    out += ' ';
    out += name(shape.op);
  }
  if (shape.kind != OpKind::barrier) {
    out += ' ';
    out += name(shape.dtype);
    out += " numel=" + std::to_string(shape.numel);
  }
  if (shape.kind == OpKind::broadcast) out += " root=" + std::to_string(shape.root);
  if (shape.codec != Codec::raw) {
    out += " codec=";
    out += name(shape.codec);
  }
  if (shape.fingerprint != 0) {
    char text[40];
    std::snprintf(text, sizeof text, " fingerprint=%016llx",
                  static_cast<unsigned long long>(shape.fingerprint));
    out += text;
  }
  return out;
}

}  // namespace papilio
