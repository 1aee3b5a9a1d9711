#include "core/codec.hpp"

#include "core/reference.hpp"

namespace papilio {
namespace {

bool hasScales(Codec codec) { return codec == Codec::fp16 || codec == Codec::int8; }

std::uint64_t valueBytes(Codec codec, std::size_t element_size) {
  switch (codec) {
    case Codec::raw: return element_size;
    case Codec::bf16:
    case Codec::fp16: return 2;
    case Codec::int8: return 1;
    case Codec::reference: break;
  }
  return element_size;
}

}  // namespace

std::string_view name(Codec codec) {
  switch (codec) {
    case Codec::raw: return "raw";
    case Codec::bf16: return "bf16";
    case Codec::fp16: return "fp16";
    case Codec::int8: return "int8";
    case Codec::reference: return "reference";
  }
  return "unknown codec";
}

Codec codecFor(Codec wanted, std::size_t element_size, std::uint64_t numel) {
  if (wanted == Codec::reference) return wanted;
  const bool shorter = valueBytes(wanted, element_size) < element_size;
  return shorter && element_size <= 4 && numel >= kCodecBlock ? wanted : Codec::raw;
}

std::uint64_t payloadBytes(Codec wanted, std::size_t element_size, std::uint64_t numel) {
  const Codec codec = codecFor(wanted, element_size, numel);
  if (codec == Codec::reference) return sizeof(ReferenceTable);
  return numel * valueBytes(codec, element_size) + (hasScales(codec) ? scaleBytes(numel) : 0);
}

std::uint64_t elementsWithin(Codec wanted, std::size_t element_size, std::uint64_t bytes) {
  const Codec codec = codecFor(wanted, element_size, kCodecBlock);
  const std::uint64_t each = valueBytes(codec, element_size);
  if (!hasScales(codec)) return bytes / each;
  std::uint64_t blocks = bytes / (kCodecBlock * each + sizeof(float));
  // The padding behind the scales may not fit.
  while (payloadBytes(codec, element_size, blocks * kCodecBlock) > bytes) --blocks;
  return blocks * kCodecBlock;
}

}  // namespace papilio
