#include "core/control_message.hpp"

#include "core/bytes.hpp"
#include "core/shape_codec.hpp"

namespace papilio {
namespace {

// One byte in front of the fields; never reuse a number.
enum class Tag : std::uint8_t {
  join = 1,
  leave,
  enter,
  strict_failed,
  nack,
  verdict,
  progress,
  fetch,
  none,
  settled,
  suspect,
  reinstate,
  handover,
  offer,
  accept,
  withdraw,
  ballot,
};

void put(ByteWriter& w, Rank rank) { w.write(rank.value); }
void put(ByteWriter& w, Seq seq) { w.write(seq.value); }
void put(ByteWriter& w, SchemaHash schema) { w.write(schema.value); }
void put(ByteWriter& w, ChunkRange range) {
  w.write(range.first);
  w.write(range.last);
}
void put(ByteWriter& w, const ContributorSet& set) {
  for (const auto word : set.words()) w.write(word);
}
void put(ByteWriter& w, const RoundShape& shape) { writeShape(w, shape); }

void write(ByteWriter& w, const msg::Join& m) {
  put(w, m.rank);
  w.write(m.size);
}
void write(ByteWriter& w, const msg::Leave& m) {
  w.write(static_cast<std::uint8_t>(m.for_next_view));
}
void write(ByteWriter& w, const msg::Enter& m) {
  put(w, m.seq);
  put(w, m.members);
  put(w, m.shape);
}
void write(ByteWriter& w, const msg::StrictFailed& m) {
  put(w, m.seq);
  put(w, m.culprits);
  w.write(m.reason);
}
void write(ByteWriter& w, const msg::Nack& m) {
  put(w, m.seq);
  w.write(static_cast<std::uint8_t>(m.code));
  w.write(m.chunk.value);
  put(w, m.oldest);
  put(w, m.shape);
  put(w, m.agreeing);
}
void write(ByteWriter& w, const msg::Verdict& m) {
  put(w, m.seq);
  put(w, m.schema);
  put(w, m.winners);
  put(w, m.losers);
}
void write(ByteWriter& w, const msg::Progress& m) {
  put(w, m.seq);
  put(w, m.missing);
}
void write(ByteWriter& w, const msg::Fetch& m) {
  put(w, m.seq);
  put(w, m.chunks);
}
void write(ByteWriter& w, const msg::None& m) {
  put(w, m.seq);
  put(w, m.chunks);
  w.write(static_cast<std::uint8_t>(m.known));
}
void write(ByteWriter& w, const msg::Settled& m) {
  put(w, m.seq);
  put(w, m.chunks);
  put(w, m.all_before);
}
void write(ByteWriter& w, const msg::Suspect& m) {
  put(w, m.target);
  put(w, m.seq);
  w.write(static_cast<std::uint8_t>(m.confirmed));
}
void write(ByteWriter& w, const msg::Reinstate& m) { put(w, m.seq); }
void write(ByteWriter& w, const msg::Handover& m) {
  put(w, m.seq);
  w.write(static_cast<std::uint8_t>(m.holding));
  put(w, m.ranks);
}
void write(ByteWriter& w, const msg::Offer& m) {
  put(w, m.id);
  w.write(m.tag);
  w.write(m.bytes);
  w.write(m.blocks);
}
void write(ByteWriter& w, const msg::Accept& m) { put(w, m.id); }
void write(ByteWriter& w, const msg::Withdraw& m) {
  put(w, m.id);
  w.write(static_cast<std::uint8_t>(m.by_receiver));
  w.write(m.reason);
}

void write(ByteWriter& w, const msg::Ballot& m) {
  w.write(static_cast<std::uint8_t>(m.stage));
  w.write(m.number);
  w.write(m.step);
  w.write(m.accepted);
  w.write(static_cast<std::uint8_t>(m.next.has_value()));
  if (m.next) writeView(w, *m.next);
}

Rank getRank(ByteReader& r) { return Rank{r.read<std::uint32_t>()}; }
Seq getSeq(ByteReader& r) { return Seq{r.read<std::uint64_t>()}; }
ChunkRange getRange(ByteReader& r) {
  ChunkRange out;
  out.first = r.read<std::uint32_t>();
  out.last = r.read<std::uint32_t>();
  return out;
}
ContributorSet getSet(ByteReader& r) {
  ContributorSet out;
  for (std::uint32_t w = 0; w < ContributorSet::kWords; ++w)
    out.setWord(w, r.read<std::uint64_t>());
  return out;
}
bool legal(ChunkRange range) { return range.first <= range.last; }

using Body = std::optional<ControlBody>;

Body readJoin(ByteReader& r) {
  msg::Join m;
  m.rank = getRank(r);
  m.size = r.read<std::uint32_t>();
  if (m.size == 0 || m.size > kMaxRanks || m.rank.value >= m.size) return std::nullopt;
  return m;
}
Body readLeave(ByteReader& r) {
  const auto for_next_view = r.read<std::uint8_t>();
  if (for_next_view > 1) return std::nullopt;
  return msg::Leave{for_next_view == 1};
}
Body readEnter(ByteReader& r) {
  msg::Enter m;
  m.seq = getSeq(r);
  m.members = getSet(r);
  const auto shape = readShape(r);
  if (!shape) return std::nullopt;
  m.shape = *shape;
  return m;
}
Body readStrictFailed(ByteReader& r) {
  msg::StrictFailed m;
  m.seq = getSeq(r);
  m.culprits = getSet(r);
  m.reason = r.read<std::uint8_t>();
  return m;
}
Body readNack(ByteReader& r) {
  msg::Nack m;
  m.seq = getSeq(r);
  const auto code = r.read<std::uint8_t>();
  if (code < 1 || code > kNackCodeLast) return std::nullopt;
  m.code = static_cast<NackCode>(code);
  m.chunk = ChunkIndex{r.read<std::uint32_t>()};
  m.oldest = getSeq(r);
  const auto shape = readShape(r);
  if (!shape) return std::nullopt;
  m.shape = *shape;
  m.agreeing = getSet(r);
  return m;
}
Body readVerdict(ByteReader& r) {
  msg::Verdict m;
  m.seq = getSeq(r);
  m.schema = SchemaHash{r.read<std::uint64_t>()};
  m.winners = getSet(r);
  m.losers = getSet(r);
  if (m.schema.value == 0 || !(m.winners & m.losers).empty()) return std::nullopt;
  return m;
}
Body readProgress(ByteReader& r) {
  msg::Progress m;
  m.seq = getSeq(r);
  m.missing = getSet(r);
  return m;
}
Body readFetch(ByteReader& r) {
  msg::Fetch m;
  m.seq = getSeq(r);
  m.chunks = getRange(r);
  if (!legal(m.chunks)) return std::nullopt;
  return m;
}
Body readNone(ByteReader& r) {
  msg::None m;
  m.seq = getSeq(r);
  m.chunks = getRange(r);
  const auto known = r.read<std::uint8_t>();
  if (!legal(m.chunks) || known > 2) return std::nullopt;
  m.known = static_cast<msg::Known>(known);
  return m;
}
Body readSettled(ByteReader& r) {
  msg::Settled m;
  m.seq = getSeq(r);
  m.chunks = getRange(r);
  m.all_before = getSeq(r);
  if (!legal(m.chunks)) return std::nullopt;
  return m;
}
Body readSuspect(ByteReader& r) {
  msg::Suspect m;
  m.target = getRank(r);
  m.seq = getSeq(r);
  const auto confirmed = r.read<std::uint8_t>();
  if (m.target.value >= kMaxRanks || confirmed > 1) return std::nullopt;
  m.confirmed = confirmed == 1;
  return m;
}
Body readHandover(ByteReader& r) {
  msg::Handover m;
  m.seq = getSeq(r);
  const auto holding = r.read<std::uint8_t>();
  m.ranks = getSet(r);
  if (holding < 1 || holding > kHoldingLast) return std::nullopt;
  m.holding = static_cast<Holding>(holding);
  if (m.holding == Holding::has && m.ranks.count() != 1) return std::nullopt;
  return m;
}
Body readOffer(ByteReader& r) {
  msg::Offer m;
  m.id = getSeq(r);
  m.tag = r.read<std::int32_t>();
  m.bytes = r.read<std::uint64_t>();
  m.blocks = r.read<std::uint32_t>();
  return m;
}
Body readWithdraw(ByteReader& r) {
  msg::Withdraw m;
  m.id = getSeq(r);
  const auto by_receiver = r.read<std::uint8_t>();
  m.reason = r.read<std::uint8_t>();
  if (by_receiver > 1) return std::nullopt;
  m.by_receiver = by_receiver == 1;
  return m;
}

Body readBallot(ByteReader& r) {
  msg::Ballot m;
  const auto stage = r.read<std::uint8_t>();
  if (stage < 1 || stage > kBallotStageLast) return std::nullopt;
  m.stage = static_cast<BallotStage>(stage);
  m.number = r.read<std::uint64_t>();
  m.step = r.read<std::uint64_t>();
  m.accepted = r.read<std::uint64_t>();
  const auto has_next = r.read<std::uint8_t>();
  if (has_next > 1) return std::nullopt;
  if (has_next == 1) m.next = readView(r);
  const bool carries = m.stage == BallotStage::propose || m.stage == BallotStage::decide;
  const bool may_carry = carries || (m.stage == BallotStage::promise && m.accepted != 0);
  if (m.number == 0 || (carries && !m.next) || (m.next && !may_carry)) return std::nullopt;
  return m;
}

Body readBody(Tag tag, ByteReader& r) {
  switch (tag) {
    case Tag::join: return readJoin(r);
    case Tag::leave: return readLeave(r);
    case Tag::enter: return readEnter(r);
    case Tag::strict_failed: return readStrictFailed(r);
    case Tag::nack: return readNack(r);
    case Tag::verdict: return readVerdict(r);
    case Tag::progress: return readProgress(r);
    case Tag::fetch: return readFetch(r);
    case Tag::none: return readNone(r);
    case Tag::settled: return readSettled(r);
    case Tag::suspect: return readSuspect(r);
    case Tag::reinstate: return msg::Reinstate{getSeq(r)};
    case Tag::handover: return readHandover(r);
    case Tag::offer: return readOffer(r);
    case Tag::accept: return msg::Accept{getSeq(r)};
    case Tag::withdraw: return readWithdraw(r);
    case Tag::ballot: return readBallot(r);
  }
  return std::nullopt;
}

}  // namespace

std::vector<std::byte> encode(const ControlMessage& message) {
  ByteWriter writer;
  writer.write(message.group.value);
  writer.write(static_cast<std::uint8_t>(message.body.index() + 1));  // Tag, in variant order
  std::visit([&](const auto& body) { write(writer, body); }, message.body);
  return writer.take();
}

std::optional<ControlMessage> parseControl(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxControlBytes) return std::nullopt;
  ByteReader reader(bytes);
  ControlMessage out;
  out.group = GroupId{reader.read<std::uint32_t>()};
  const auto tag = static_cast<Tag>(reader.read<std::uint8_t>());
  auto body = readBody(tag, reader);
  if (!body || !reader.exhausted()) return std::nullopt;
  out.body = std::move(*body);
  return out;
}

namespace {

std::string text(Seq seq) { return " seq " + std::to_string(seq.value); }
std::string text(ChunkRange range) {
  return " chunks [" + std::to_string(range.first) + "," + std::to_string(range.last) + ")";
}
std::string text(const ContributorSet& set) {
  std::string out = " {";
  set.forEach([&](Rank rank) {
    if (out.size() > 2) out += ",";
    out += std::to_string(rank.value);
  });
  return out + "}";
}

std::string message(Seq id) { return " message " + std::to_string(id.value); }

struct Describe {
  std::string operator()(const msg::Offer& m) const {
    return "OFFER" + message(m.id) + " tag " + std::to_string(m.tag) + ", " +
           std::to_string(m.bytes) + " bytes";
  }
  std::string operator()(const msg::Accept& m) const { return "ACCEPT" + message(m.id); }
  std::string operator()(const msg::Withdraw& m) const {
    return "WITHDRAW" + message(m.id) + (m.by_receiver ? " by its receiver" : "");
  }
  std::string operator()(const msg::Join& m) const {
    return "JOIN rank " + std::to_string(m.rank.value) + "/" + std::to_string(m.size);
  }
  std::string operator()(const msg::Leave& m) const {
    return m.for_next_view ? "LEAVE for the next view" : "LEAVE";
  }
  std::string operator()(const msg::Enter& m) const {
    return "ENTER" + text(m.seq) + " " + describe(m.shape) + " members" + text(m.members);
  }
  std::string operator()(const msg::StrictFailed& m) const {
    return "STRICT_FAILED" + text(m.seq) + " culprits" + text(m.culprits);
  }
  std::string operator()(const msg::Nack& m) const {
    static constexpr const char* kCodes[] = {"?",     "schema",  "blacklisted",
                                             "stale", "corrupt", "evicted"};
    return "NACK " + std::string(kCodes[static_cast<std::uint8_t>(m.code)]) + text(m.seq);
  }
  std::string operator()(const msg::Verdict& m) const {
    return "VERDICT" + text(m.seq) + " winners" + text(m.winners) + " losers" + text(m.losers);
  }
  std::string operator()(const msg::Progress& m) const {
    return "PROGRESS" + text(m.seq) + " missing" + text(m.missing);
  }
  std::string operator()(const msg::Fetch& m) const {
    return "FETCH" + text(m.seq) + text(m.chunks);
  }
  std::string operator()(const msg::None& m) const {
    static constexpr const char* kKnown[] = {"", " any more", " either"};
    return "NONE" + text(m.seq) + text(m.chunks) + kKnown[static_cast<std::size_t>(m.known)];
  }
  std::string operator()(const msg::Settled& m) const {
    return "SETTLED" + text(m.seq) + text(m.chunks);
  }
  std::string operator()(const msg::Suspect& m) const {
    return "SUSPECT rank " + std::to_string(m.target.value) + " from" + text(m.seq);
  }
  std::string operator()(const msg::Reinstate& m) const { return "REINSTATE from" + text(m.seq); }
  std::string operator()(const msg::Handover& m) const {
    static constexpr const char* kHoldings[] = {"?", "HAS", "LACKS", "WANTS"};
    return kHoldings[static_cast<std::uint8_t>(m.holding)] + text(m.seq) + text(m.ranks);
  }
  std::string operator()(const msg::Ballot& m) const {
    static constexpr const char* kStages[] = {"?",       "PREPARE", "PROMISE", "REFUSE",
                                              "PROPOSE", "ACCEPT",  "DECIDE"};
    return kStages[static_cast<std::uint8_t>(m.stage)] + (" ballot " + std::to_string(m.number)) +
           (m.next ? " view " + describe(*m.next) : "");
  }
};

}  // namespace

std::string describe(const ControlBody& body) { return std::visit(Describe{}, body); }

}  // namespace papilio
