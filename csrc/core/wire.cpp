#include "core/wire.hpp"

#include <cstring>
#include <initializer_list>

#include "core/bytes.hpp"
#include "core/crc32c.hpp"
#include "core/shape_codec.hpp"

namespace papilio {
namespace {

constexpr std::uint32_t kMagic = 0x4c495050;  // "PPIL"
constexpr std::uint8_t kVersion = 5;
constexpr std::uint16_t kKnownFlags = kLateNotCounted | kFetched | kNonFiniteDropped |
                                      kOthersSettled | kOthersMissed | kRelayed | kOfHost |
                                      kListens | kReducersEnded | kCorruptDropped;

// The first 60 bytes as they lie on the wire; the CRC word follows, then the extension.
struct Fixed {
  std::uint32_t magic;
  std::uint8_t version;
  std::uint8_t type;
  std::uint16_t flags;
  std::uint32_t group;
  std::uint32_t incarnation;
  std::uint32_t view;
  std::uint32_t src;
  std::uint64_t seq;
  std::uint64_t schema;
  std::uint32_t chunk;
  std::uint32_t payload_bytes;
  std::uint32_t payload_crc;
  float weight;
  std::uint16_t attempt;
  std::uint16_t reserved;
};
constexpr std::size_t kFixedBytes = 60;
static_assert(sizeof(Fixed) == 64 && offsetof(Fixed, reserved) == kFixedBytes - 2);

std::size_t extensionBytes(MessageType type, std::uint16_t flags) {
  switch (type) {
    case MessageType::contribution:
      return kShapeBytes + ((flags & kOfHost) != 0 ? kHostExtensionBytes : 0);
    case MessageType::result:
      return kResultExtensionBytes + ((flags & kNonFiniteDropped) != 0 ? kDroppedBytes : 0) +
             ((flags & kCorruptDropped) != 0 ? kDroppedBytes : 0);
    case MessageType::block:
    case MessageType::piece: return 0;
  }
  return 0;
}

std::uint32_t headerCrc(std::span<const std::byte> bytes) {
  return crc32c(bytes.subspan(kHeaderBytes), crc32c(bytes.first(kFixedBytes)));
}

void writeExtension(const DataHeader& header, std::byte* to) {
  const auto writeSets = [&](std::initializer_list<const ContributorSet*> sets) {
    for (const ContributorSet* set : sets) {
      std::memcpy(to, set->words().data(), kMaxRanks / 8);
      to += kMaxRanks / 8;
    }
  };
  if (header.type == MessageType::contribution) {
    writeShapeTo(to, header.shape);
    to += kShapeBytes;
    if ((header.flags & kOfHost) != 0) writeSets({&header.contributors, &header.blamed});
  } else if (header.type == MessageType::result) {
    std::memcpy(to, &header.weight_sum, sizeof header.weight_sum);
    to += sizeof header.weight_sum;
    writeSets({&header.contributors, &header.blamed, &header.mismatched});
    if ((header.flags & kNonFiniteDropped) != 0) writeSets({&header.nonfinite});
    if ((header.flags & kCorruptDropped) != 0) writeSets({&header.corrupt});
  }
}

bool readExtension(std::span<const std::byte> bytes, DataHeader& out) {
  ByteReader reader(bytes);
  const auto readSets = [&](std::initializer_list<ContributorSet*> sets) {
    for (ContributorSet* set : sets) {
      for (std::uint32_t w = 0; w < ContributorSet::kWords; ++w) {
        set->setWord(w, reader.read<std::uint64_t>());
      }
    }
  };
  if (out.type == MessageType::contribution) {
    const auto shape = readShape(reader);
    if (!shape) return false;
    out.shape = *shape;
    if ((out.flags & kOfHost) != 0) readSets({&out.contributors, &out.blamed});
  } else if (out.type == MessageType::result) {
    out.weight_sum = reader.read<double>();
    readSets({&out.contributors, &out.blamed, &out.mismatched});
    if ((out.flags & kNonFiniteDropped) != 0) readSets({&out.nonfinite});
    if ((out.flags & kCorruptDropped) != 0) readSets({&out.corrupt});
  }
  return reader.exhausted();
}

}  // namespace

void encode(const DataHeader& header, EncodedHeader& out) {
  Fixed fixed{};
  fixed.magic = kMagic;
  fixed.version = kVersion;
  fixed.type = static_cast<std::uint8_t>(header.type);
  fixed.flags = header.flags;
  fixed.group = header.group.value;
  fixed.incarnation = header.incarnation.value;
  fixed.view = header.view.value;
  fixed.src = header.src.value;
  fixed.seq = header.seq.value;
  fixed.schema = header.schema.value;
  fixed.chunk = header.chunk.value;
  fixed.payload_bytes = header.payload_bytes;
  fixed.payload_crc = header.payload_crc;
  fixed.weight = header.weight;
  fixed.attempt = header.attempt;
  std::memcpy(out.bytes.data(), &fixed, kFixedBytes);
  writeExtension(header, out.bytes.data() + kHeaderBytes);
  out.size = static_cast<std::uint32_t>(kHeaderBytes + extensionBytes(header.type, header.flags));
  const std::uint32_t crc = headerCrc(out.view());
  std::memcpy(out.bytes.data() + kFixedBytes, &crc, sizeof crc);
}

ParseError parse(std::span<const std::byte> bytes, DataHeader& out) {
  if (bytes.size() < kHeaderBytes) return ParseError::length;
  Fixed fixed{};
  std::memcpy(&fixed, bytes.data(), kFixedBytes);
  if (fixed.magic != kMagic) return ParseError::magic;
  if (fixed.version != kVersion) return ParseError::version;
  if (fixed.type < 1 || fixed.type > 4) return ParseError::type;
  const auto type = static_cast<MessageType>(fixed.type);
  if (bytes.size() != kHeaderBytes + extensionBytes(type, fixed.flags)) return ParseError::length;
  std::uint32_t crc;
  std::memcpy(&crc, bytes.data() + kFixedBytes, sizeof crc);
  if (crc != headerCrc(bytes)) return ParseError::crc;
  const bool of_result = (fixed.flags & (kOfHost | kListens)) == 0;
  const bool of_contribution = (fixed.flags & kRelayed) == 0;
  if (!(type == MessageType::contribution ? of_contribution : of_result)) return ParseError::range;
  const bool legal = (fixed.flags & ~kKnownFlags) == 0 && fixed.reserved == 0 &&
                     fixed.src < kMaxRanks && fixed.seq != 0 && fixed.schema != 0;
  if (!legal) return ParseError::range;
  out = DataHeader{};
  out.type = type;
  out.flags = fixed.flags;
  out.group = GroupId{fixed.group};
  out.incarnation = Incarnation{fixed.incarnation};
  out.view = ViewNumber{fixed.view};
  out.src = Rank{fixed.src};
  out.seq = Seq{fixed.seq};
  out.schema = SchemaHash{fixed.schema};
  out.chunk = ChunkIndex{fixed.chunk};
  out.payload_bytes = fixed.payload_bytes;
  out.payload_crc = fixed.payload_crc;
  out.weight = fixed.weight;
  out.attempt = fixed.attempt;
  return readExtension(bytes.subspan(kHeaderBytes), out) ? ParseError::none : ParseError::range;
}

const char* name(ParseError error) {
  switch (error) {
    case ParseError::none: return "none";
    case ParseError::length: return "length";
    case ParseError::magic: return "magic";
    case ParseError::version: return "version";
    case ParseError::crc: return "crc";
    case ParseError::type: return "type";
    case ParseError::range: return "range";
  }
  return "unknown";
}

}  // namespace papilio
