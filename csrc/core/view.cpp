#include "core/view.hpp"

namespace papilio {

void writeView(ByteWriter& writer, const NextView& view) {
  writer.write(view.step);
  for (const auto word : view.members.words()) writer.write(word);
  writer.write(static_cast<std::uint8_t>(view.joiners.size()));
  for (const auto& joiner : view.joiners) {
    writer.write(joiner.rank.value);
    writer.writeText(joiner.record, kMaxRecordBytes);
  }
}

NextView readView(ByteReader& reader) {
  NextView out;
  out.step = reader.read<std::uint64_t>();
  for (std::uint32_t w = 0; w < ContributorSet::kWords; ++w) {
    out.members.setWord(w, reader.read<std::uint64_t>());
  }
  const auto joiners = reader.read<std::uint8_t>();
  bool legal = out.step != 0 && joiners <= kMaxJoiners && !out.members.empty();
  for (std::uint8_t i = 0; legal && i < joiners; ++i) {
    Joiner joiner;
    joiner.rank = Rank{reader.read<std::uint32_t>()};
    joiner.record = reader.readText(kMaxRecordBytes);
    legal = out.members.contains(joiner.rank) && !joiner.record.empty() &&
            (out.joiners.empty() || out.joiners.back().rank < joiner.rank);
    out.joiners.push_back(std::move(joiner));
  }
  if (!legal) reader.fail();
  return out;
}

std::string describe(const NextView& view) {
  std::string members, joiners;
  view.members.forEach(
      [&](Rank rank) { members += (members.empty() ? "" : ",") + std::to_string(rank.value); });
  for (const auto& joiner : view.joiners) {
    joiners += (joiners.empty() ? ", new: " : ",") + std::to_string(joiner.rank.value);
  }
  return "from step " + std::to_string(view.step) + " members {" + members + "}" + joiners;
}

}  // namespace papilio
