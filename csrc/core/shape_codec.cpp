#include "core/shape_codec.hpp"

#include <array>
#include <cmath>
#include <cstring>

namespace papilio {
namespace {

constexpr std::size_t kReservedBytes = 7;

bool reduces(OpKind kind) {
  return kind == OpKind::allreduce || kind == OpKind::reduce || kind == OpKind::reduce_scatter;
}

bool inEnum(std::uint8_t value, std::uint8_t first, std::uint8_t last) {
  return value >= first && value <= last;
}

}  // namespace

bool valid(const RoundShape& shape) {
  if (!inEnum(static_cast<std::uint8_t>(shape.kind), 1, kOpKindLast)) return false;
  if (!inEnum(static_cast<std::uint8_t>(shape.op), 1, kReduceOpLast)) return false;
  const std::size_t element = elementSize(shape.dtype);
  if (element == 0 || shape.numel > kMaxTensorBytes / element) return false;
  if (reduces(shape.kind) && !supports(shape.dtype, shape.op)) return false;
  if (!inEnum(static_cast<std::uint8_t>(shape.codec), 0, kCodecLast)) return false;
  const bool tolerant = shape.kind == OpKind::allreduce && !shape.strict && isFloating(shape.dtype);
  if (shape.codec != Codec::raw && !tolerant) return false;
  return std::isfinite(shape.premul) && shape.root < kMaxRanks;
}

void writeShapeTo(std::byte* to, const RoundShape& shape) {
  const auto put = [&](auto value) {
    std::memcpy(to, &value, sizeof value);
    to += sizeof value;
  };
  put(static_cast<std::uint8_t>(shape.kind));
  put(static_cast<std::uint8_t>(shape.op));
  put(static_cast<std::uint8_t>(shape.dtype));
  put(static_cast<std::uint8_t>(shape.strict));
  put(shape.root);
  put(shape.numel);
  put(shape.premul);
  put(shape.fingerprint);
  put(static_cast<std::uint8_t>(shape.codec));
  std::memset(to, 0, kReservedBytes);
}

void writeShape(ByteWriter& writer, const RoundShape& shape) {
  std::array<std::byte, kShapeBytes> bytes;
  writeShapeTo(bytes.data(), shape);
  for (const std::byte byte : bytes) writer.write(byte);
}

std::optional<RoundShape> readShape(ByteReader& reader) {
  RoundShape shape;
  shape.kind = static_cast<OpKind>(reader.read<std::uint8_t>());
  shape.op = static_cast<ReduceOp>(reader.read<std::uint8_t>());
  shape.dtype = static_cast<DType>(reader.read<std::uint8_t>());
  const auto strict = reader.read<std::uint8_t>();
  shape.strict = strict == 1;
  shape.root = reader.read<std::uint32_t>();
  shape.numel = reader.read<std::uint64_t>();
  shape.premul = reader.read<double>();
  shape.fingerprint = reader.read<std::uint64_t>();
  shape.codec = static_cast<Codec>(reader.read<std::uint8_t>());
  std::uint8_t reserved = 0;
  for (std::size_t i = 0; i < kReservedBytes; ++i) reserved |= reader.read<std::uint8_t>();
  if (reader.failed() || strict > 1 || reserved != 0 || !valid(shape)) return std::nullopt;
  return shape;
}

}  // namespace papilio
