// RoundShape as it travels, in a contribution's extension and in control messages alike: 40 bytes.
#pragma once

#include <optional>

#include "core/bytes.hpp"
#include "core/round_shape.hpp"

namespace papilio {

// Largest tensor of one collective. Keeps every chunk index and byte count of a layout in range,
// whatever numel a peer claims.
inline constexpr std::uint64_t kMaxTensorBytes = std::uint64_t{1} << 42;

// Whether every field has a legal value: known enums, a pair (dtype, op) that exists, finite
// factor.
bool valid(const RoundShape& shape);

void writeShape(ByteWriter& writer, const RoundShape& shape);
// The same into fixed storage of kShapeBytes (core/wire.hpp), without allocation.
void writeShapeTo(std::byte* to, const RoundShape& shape);
// nullopt when bytes are missing, reserved bytes are set or the shape is not valid().
std::optional<RoundShape> readShape(ByteReader& reader);

}  // namespace papilio
