// Between the tensor and what travels: the codec of the group's tolerant rounds.
#include <cstring>

#include "core/crc32c.hpp"
#include "core/reference.hpp"
#include "engine/group_runtime.hpp"
#include "engine/stream_copy.hpp"

namespace papilio::engine {

namespace {
// The beginning of a larger tensor is out of the caches again when its end has come.
constexpr std::uint64_t kStreamedTensor = 8ULL << 20;
}  // namespace

ErrorFeedback::Source GroupRuntime::sourceOf(Seq seq, const Local& local, ChunkIndex chunk) const {
  return {
      local.data, &local.shape, chunk, chunkData(local, chunk), local.layout.range(chunk).size(),
      seq};
}

bool GroupRuntime::hasResidual(const Local& local, ChunkIndex chunk) const {
  return ErrorFeedback::applies(
      codecFor(local.shape.codec, local.layout.elementSize(), local.layout.range(chunk).size()));
}

// Returns the checksum of what it wrote. A result comes from the tensor of a rank that got it: it
// encodes to bytes that decode to the same again (engine/codec.hpp).
std::uint32_t GroupRuntime::encodeChunk(Seq seq, const Local& local, ChunkIndex chunk, Staged what,
                                        std::byte* out) {
  const bool checked = config_.options.payload_crc;
  const std::byte* data = chunkData(local, chunk);
  if (local.shape.codec == Codec::raw && checked) {
    return copyWithCrc32c(out, {data, local.layout.bytes(chunk)});
  }
  if (what == Staged::contribution && hasResidual(local, chunk)) {
    feedback_.encode(sourceOf(seq, local, chunk), out);
  } else {
    encode(local.shape.codec, local.shape.dtype, data, local.layout.range(chunk).size(), out);
  }
  return checked ? crc32c({out, local.layout.payload(chunk)}) : 0;
}

void GroupRuntime::decodeChunk(const Local& local, ChunkIndex chunk, const std::byte* payload) {
  const bool large = local.layout.totalPayload() >= kStreamedTensor;
  if (large && local.shape.codec == Codec::raw) {
    return streamCopy(chunkData(local, chunk), payload, local.layout.bytes(chunk));
  }
  decode(local.shape.codec, local.shape.dtype, payload, local.layout.range(chunk).size(),
         chunkData(local, chunk));
}

bool GroupRuntime::stageChunk(Seq seq, const Local& local, ChunkIndex chunk, Staged what,
                              Outgoing& out, DataHeader& header) {
  out.payload = host_.pool().tryAllocate(static_cast<std::uint32_t>(local.layout.payload(chunk)));
  if (!out.payload) return false;
  header.payload_crc = encodeChunk(seq, local, chunk, what, out.payload.data());
  return true;
}

namespace {

// Every rank can speak for itself only: of its table one row counts.
Reference referenceOf(const std::byte* table, Rank rank) {
  Reference out;
  if (rank.value < kMaxReferences) {
    std::memcpy(&out, table + rank.value * sizeof(Reference), sizeof(Reference));
  }
  return out;
}
bool refersToNonFinite(const Reference& reference) {
  return (reference.flags & Reference::nonfinite) != 0;
}

}  // namespace

void GroupRuntime::joinReferences(const ReduceSet& set, std::byte* out, bool* bad) {
  ReferenceTable rows{};
  for (std::size_t k = 0; k < set.ranks.size(); ++k) {
    const Rank rank = set.ranks[k];
    if (rank.value >= kMaxReferences) continue;
    rows[rank.value] = referenceOf(set.inputs[k].data, rank);
    if (bad != nullptr) *bad = *bad || refersToNonFinite(rows[rank.value]);
  }
  std::memcpy(out, rows.data(), sizeof(rows));
}

// Averages, once more without those who have a NaN or an infinity when they are a minority; who is
// left is in `set`. Contributions are decoded on the way; this rank's own comes from its tensor,
// with all its digits. The result is encoded once: everybody, this rank included, takes what it
// decodes to.
void GroupRuntime::reduceInputs(const RoundShape& shape, std::uint64_t numel, ReduceSet& set,
                                std::byte* out) {
  auto& inputs = set.inputs;
  const bool refers = shape.codec == Codec::reference;
  const auto reduce = [&](bool* bad) {
    if (refers) return joinReferences(set, out, bad);
    double weight_sum = 0;
    for (const double weight : set.weights) weight_sum += weight;
    reduceCoded(shape.codec, shape.dtype, inputs, numel, factorFor(shape, weight_sum), out, bad);
  };
  if (inputs.empty()) return;
  // Within a host one that has none is enough: whether the others are a minority of all, it can not
  // know, and a single one would spoil what all of them have.
  const bool of_host = config_.options.of_host;
  const std::size_t fewest = of_host ? 2 : 3;
  const bool drops = config_.options.nonfinite == fault::NonFinite::drop && inputs.size() >= fewest;
  bool seen = false;
  reduce(drops ? &seen : nullptr);
  if (!seen) return;
  std::vector<std::size_t> bad;
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    const auto& input = inputs[k];
    const bool is_bad = refers        ? refersToNonFinite(referenceOf(input.data, set.ranks[k]))
                        : input.coded ? codedNonFinite(shape.codec, shape.dtype, input.data, numel)
                                      : hasNonFinite(shape.dtype, input.data, numel);
    if (is_bad) bad.push_back(k);
  }
  // Only a minority is taken for damage; when most have it, the model itself diverged.
  const bool minority = of_host ? bad.size() < inputs.size() : bad.size() * 2 < inputs.size();
  if (bad.empty() || !minority) return;
  for (auto it = bad.rbegin(); it != bad.rend(); ++it) {
    const auto at = static_cast<std::ptrdiff_t>(*it);
    inputs.erase(inputs.begin() + at);
    set.weights.erase(set.weights.begin() + at);
    set.ranks.erase(set.ranks.begin() + at);
  }
  nonfinite_dropped_ += bad.size();
  reduce(nullptr);
}

}  // namespace papilio::engine
