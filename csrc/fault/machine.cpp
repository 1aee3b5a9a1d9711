// Entry and end of rounds, membership events, retention.
#include "fault/machine.hpp"

#include <algorithm>

#include "fault/mutant.hpp"

namespace papilio::fault {

namespace {
constexpr Duration kHardCeiling = 120s;               // T_hard of tolerant rounds (protocol D5)
constexpr std::size_t kRoundsKept = 4;                // complete rounds, for repeats after damage …
constexpr std::uint64_t kCompleteBytes = 4ULL << 20;  // … as long as they are small
constexpr std::size_t kMaxRoundsKept = 4096;          // rounds somebody may still ask for
constexpr Duration kMaxSelfDoubt = 10s;
// How long before its end a strict round asks who is to blame.
constexpr Duration kAskBefore = 250ms;
}  // namespace

Machine::Machine(MachineConfig config)
    : config_(config),
      members_(config.size, config.me, config.options, config.seed),
      policy_(config.options.patience, config.options.arrival_floor),
      forgotten_before_(1) {
  members_.at(config.me).ever_contributed = true;
  members_.leaveOut(config.absent, config.absent_because);
  members_.place(config.hosts);
}

Effects Machine::takeEffects() {
  // Only when nothing is left to perform: an effect names what pruning would forget.
  if (effects_.empty()) prune();
  Effects out;
  out.swap(effects_);
  return out;
}

Machine::Round* Machine::find(Seq seq) {
  const auto it = rounds_.find(seq);
  return it == rounds_.end() ? nullptr : &it->second;
}

const Machine::Round* Machine::find(Seq seq) const {
  const auto it = rounds_.find(seq);
  return it == rounds_.end() ? nullptr : &it->second;
}

void Machine::notify(EventKind kind, Rank rank, Reason reason, Seq seq, std::string detail) {
  effects_.push_back(effect::Notify{{kind, rank, reason, seq, std::move(detail)}});
}

void Machine::toOthers(const ControlBody& body) {
  members_.present().forEach([&](Rank to) {
    if (to != members_.me()) toControl(to, body);
  });
}

void Machine::enterAllreduce(Time now, Seq seq, const RoundShape& shape, Duration timeout,
                             HostShare host) {
  entered_ = std::max(entered_, seq);
  newest_ = std::max(newest_, seq);
  members_.entered(seq);
  if (seq.value + kNearlyCurrent >= newest_.value) members_.caughtUp(members_.me());
  Round& round = rounds_[seq];
  live_.insert(seq);
  ++active_;
  const SchemaHash schema = schemaOf(shape, config_.group, config_.view);
  round.my_schema = schema;
  const Time ceiling = now + std::min(timeout, kHardCeiling);
  const bool zeroed = config_.options.fallback == Fallback::zero;
  ContributorSet same;  // they combined their data with this rank's, so they have the same schema
  for (const auto& range : host.ranges) same = same | range.contributors;
  round.local =
      std::make_unique<Contribution>(members_, policy_, seq, schema, shape, config_.options.weight,
                                     now, ceiling, std::move(host), zeroed);
  round.self_suspect = now < suspect_self_until_;
  if (!quorumHolds()) {
    finishLocal(now, seq, round, quorumError());
    pump(now, seq, round);
    return;
  }
  same.insert(members_.me());
  same.forEach([&](Rank rank) { round.votes.add(rank, schema, shape); });
  if (evicted()) {
    finishLocal(now, seq, round, evictedError());
    resolveSchema(now, seq, round, true);
    pump(now, seq, round);
    return;
  }
  if (round.votes.contested()) {
    members_.all().forEach([&](Rank rank) {
      const auto vote = round.votes.of(rank);
      if (vote && *vote != schema) tellSchema(seq, round, rank);
    });
  }
  variant(now, seq, round, schema, shape).showed(now, members_.me());
  ownDuties(now, seq, round, round.local->start(effects_));
  for (std::uint32_t r = 0; r < config_.size; ++r) {
    if (members_.at(Rank{r}).gone_before <= seq) continue;
    for (std::uint32_t c = 0; c < round.local->layout().chunkCount(); ++c) {
      round.local->gone(Rank{r}, ChunkIndex{c}, effects_);
    }
  }
  round.verdict_known = false;  // a vote that ended without this rank is counted again with it
  resolveSchema(now, seq, round, false);
  const auto verdicts = std::move(round.early_verdicts);
  for (const auto& verdict : verdicts) on(now, members_.me(), verdict);
  pump(now, seq, round);
}

void Machine::enterStrict(Time now, Seq seq, StrictSpec spec, Duration timeout) {
  entered_ = std::max(entered_, seq);
  newest_ = std::max(newest_, seq);
  members_.entered(seq);
  Round& round = rounds_[seq];
  live_.insert(seq);
  ++active_;
  const RoundShape shape = spec.shape;
  const SchemaHash schema = schemaOf(shape, config_.group, config_.view);
  round.my_schema = schema;
  const Time deadline = timeout >= kNever - now ? kNever : now + timeout;
  round.strict = makeStrict(seq, schema, std::move(spec), deadline);
  if (deadline != kNever) round.ask_at = deadline - std::min<Duration>(timeout / 4, kAskBefore);
  if (!quorumHolds()) {
    round.strict->fail(quorumError(), effects_);
  } else {
    round.votes.add(members_.me(), schema, shape);
    round.strict->start(effects_);
    for (const auto& [rank, enter] : round.early_enters) {
      const bool same = schemaOf(enter.shape, config_.group, config_.view) == schema;
      if (members_.gone(rank)) {  // it was not, when it entered
        refuseStrict(seq, rank);
      } else if (same) {
        round.strict->peerEntered(rank, enter.members, effects_);
      }
    }
    for (const auto& [rank, failure] : round.early_failures) {
      strictFailedBy(now, rank, failure, round);
    }
    strictMismatch(now, seq, round);
  }
  pump(now, seq, round);
}

void Machine::cancel(Time now, Seq seq, ErrorKind kind, const std::string& text) {
  Round* round = find(seq);
  if (round == nullptr || round->finished) return;
  RoundError error;
  error.kind = kind;
  error.text = text;
  if (round->strict) {
    if (kind == ErrorKind::deadline_exceeded) {
      error.ranks = toBlame(now, seq, *round);
      error.reason = Reason::unreachable;
    }
    round->strict->fail(std::move(error), effects_);
    pump(now, seq, *round);
  } else if (round->local) {
    finishLocal(now, seq, *round, std::move(error));
    pump(now, seq, *round);
  }
}

void Machine::cancelAll(Time now, ErrorKind kind, const std::string& text) {
  const std::set<Seq> rounds = live_;
  for (const Seq seq : rounds) cancel(now, seq, kind, text);
}

bool Machine::quorumHolds() const {
  return members_.present().count() >= config_.options.min_peers;
}

RoundError Machine::quorumError() const {
  RoundError error;
  error.kind = ErrorKind::quorum_lost;
  error.ranks = members_.slots() - members_.present();
  error.text =
      std::to_string(members_.present().count()) + " of " + std::to_string(config_.size) +
      " members are left, fewer than min_peers=" + std::to_string(config_.options.min_peers);
  return error;
}

void Machine::checkQuorum(Time now) {
  if (quorumHolds()) return;
  const std::set<Seq> rounds = live_;
  for (const Seq seq : rounds) {
    Round* round = find(seq);
    if (round == nullptr || round->finished) continue;
    if (round->strict) {
      round->strict->fail(quorumError(), effects_);
      pump(now, seq, *round);
    } else if (round->local) {
      finishLocal(now, seq, *round, quorumError());
      pump(now, seq, *round);
    }
  }
}

void Machine::finishLocal(Time, Seq seq, Round& round, RoundError error) {
  if (round.finished || !round.local) return;
  Contribution& local = *round.local;
  // An error leaves the tensor as it was, or fully written; never torn, and never with the sums
  // that a host makes.
  const bool written = !local.untouched() || !local.ranges().empty();
  if (!local.done() && written) local.giveUp(effects_);
  members_.all().forEach([&](Rank to) {
    if (to != members_.me()) effects_.push_back(effect::DropContributions{to, seq});
  });
  if (error) toOthers(msg::Settled{seq, {0, local.layout().chunkCount()}, oldestActive()});
  for (auto& [schema, reduction] : round.variants) reduction->withdraw(members_.me());
  closeReady(round, effects_);
  round.finished = true;
  --active_;
  if (local.counted() && !error) announceReturn(seq);
  emitFinish(round, local.report(), std::move(error));
}

void Machine::emitFinish(Round& round, Report report, RoundError error) {
  report.view = config_.view;
  report.self_suspect = report.self_suspect || round.self_suspect;
  if (error) {
    ++counters_.rounds_failed;
    // The error says whom it is about; a report cut short would only guess.
    report.blamed.clear();
    if (error.kind == ErrorKind::quorum_lost) {
      error.ranks.forEach([&](Rank rank) { report.blamed.emplace(rank, members_.blameFor(rank)); });
    }
  } else if (report.outcome == Outcome::complete) {
    ++counters_.rounds_complete;
    policy_.addCleanRound();
  } else {
    ++(report.outcome == Outcome::local ? counters_.rounds_local : counters_.rounds_degraded);
  }
  std::uint64_t local_elements = 0;
  for (const auto& chunk : report.chunks) {
    if (chunk.source == Source::local) local_elements += chunk.stop - chunk.start;
  }
  if (local_elements > 0 && !error) {
    const std::uint64_t bytes = local_elements * elementSize(report.shape.dtype);
    counters_.fallback_bytes += bytes;
    std::string who;
    for (const auto& [rank, reason] : report.blamed) {
      who += (who.empty() ? "" : ", ") + std::to_string(rank.value) + " (" + name(reason) + ")";
    }
    const bool nobody = report.blamed.empty();
    const Rank first = nobody ? members_.me() : report.blamed.begin()->first;
    const Reason reason = nobody ? Reason::none : report.blamed.begin()->second;
    notify(EventKind::fallback, first, reason, report.seq,
           std::to_string(bytes) + " bytes kept the local value, missing rank " +
               (who.empty() ? "none: this rank was behind" : who));
  }
  effects_.push_back(effect::Finish{report.seq, std::move(report), std::move(error)});
}

void Machine::peerUp(Time, Rank rank, Incarnation incarnation) {
  Member& member = members_.at(rank);
  if (member.link != Member::Link::joining) return;
  member.link = Member::Link::up;
  member.incarnation = incarnation;
}

void Machine::peerGone(Time now, Rank rank, Reason reason, const std::string& evidence) {
  Member& member = members_.at(rank);
  if (member.link == Member::Link::gone || rank == members_.me()) return;
  member.link = Member::Link::gone;
  member.gone_reason = reason;
  notify(EventKind::peer_lost, rank, reason, entered_, evidence);
  redirectAll(now, rank);
  checkQuorum(now);
}

void Machine::redirectAll(Time now, Rank rank) {
  announceSettled(rank);
  const Reason reason = members_.goneReason(rank);
  const std::set<Seq> rounds = live_;
  for (const Seq seq : rounds) {
    Round* round = find(seq);
    if (round == nullptr) continue;
    if (round->local && !round->finished) {
      leaderFailed(now, seq, *round, rank);
      round->local->reducerFailed(now, rank, true, effects_);
    }
    // A rank with the wrong model still counts in strict collectives that it entered.
    if (round->strict && members_.at(rank).link == Member::Link::gone) {
      round->strict->peerGone(rank, reason, effects_);
    }
    resolveSchema(now, seq, *round, false);
    pump(now, seq, *round);
  }
}

// Whoever stands in for `gone` must not wait for chunks that this rank already has.
void Machine::announceSettled(Rank gone) {
  const Rank stand_in = members_.reducerFor(gone, entered_);
  if (stand_in == members_.me()) return;
  const Seq before = oldestActive();
  toControl(stand_in, msg::Settled{before, {}, before});
  for (const Seq seq : live_) {
    const Round* round = find(seq);
    if (round == nullptr || !round->local || round->finished) continue;
    for (const auto& range : round->local->gotRanges()) {
      toControl(stand_in, msg::Settled{seq, range, before});
    }
  }
  for (auto it = rounds_.lower_bound(before); it != rounds_.end(); ++it) {
    if (!it->second.local || !it->second.finished) continue;
    toControl(stand_in,
              msg::Settled{it->first, {0, it->second.local->layout().chunkCount()}, before});
  }
}

Seq Machine::oldestActive() const {
  for (const Seq seq : live_) {
    const Round* round = find(seq);
    if (round != nullptr && (round->local || round->strict) && !round->finished) return seq;
  }
  return Seq{entered_.value + 1};
}

void Machine::ban(Time now, Rank rank, std::optional<Duration> term, const std::string& why) {
  members_.blacklist().add(now, rank, members_.at(rank).incarnation, Reason::manual, term);
  ++counters_.bans;
  notify(EventKind::blacklisted, rank, Reason::manual, entered_, why);
  const std::set<Seq> rounds = live_;
  for (const Seq seq : rounds) {
    if (Round* round = find(seq)) pump(now, seq, *round);
  }
}

void Machine::unban(Time now, Rank rank) {
  if (!members_.blacklist().remove(rank)) return;
  notify(EventKind::readmitted, rank, Reason::manual, entered_, "unban");
  opinions_changed_ = true;  // what it sent before counts again
  pumpChanged(now);
}

void Machine::paused(Time now, Duration gap) {
  if (PAPILIO_MUTANT(self_suspect)) return;
  suspect_self_until_ = std::max(suspect_self_until_, now + std::min(2 * gap, kMaxSelfDoubt));
  for (const Seq seq : live_) {
    if (Round* round = find(seq)) round->self_suspect = true;
  }
}

void Machine::closeReady(Round& round, Effects& out) {
  for (auto& [schema, reduction] : round.variants) {
    const bool open = voteOpen(round) && !PAPILIO_MUTANT(vote_holds_open);
    reduction->holdOpen(open);
    if (!open) reduction->closeReady(out);
  }
}

bool Machine::quiet(const Round& round) {
  if ((round.local || round.strict) && !round.finished) return false;
  return std::all_of(round.variants.begin(), round.variants.end(),
                     [](const auto& entry) { return entry.second->idle(); });
}

bool Machine::keepsResults(const Round& round) {
  return std::any_of(round.variants.begin(), round.variants.end(),
                     [](const auto& entry) { return entry.second->keptBytes() != 0; });
}

void Machine::dropVariants(Seq seq, Round& round) {
  for (const auto& [schema, reduction] : round.variants) {
    kept_bytes_ -= reduction->keptBytes();
    effects_.push_back(effect::Forget{seq, schema});
  }
  round.variants.clear();
}

// Rounds leave in order. A round in which everybody got everything leaves soon; one that a late
// rank may still ask for stays while the retention budget lasts.
void Machine::prune() {
  while (rounds_.size() > 1 && (rounds_.size() > kRoundsKept || kept_bytes_ > kCompleteBytes)) {
    auto& [seq, round] = *rounds_.begin();
    const bool served = quiet(round) && round.finished &&
                        std::all_of(round.variants.begin(), round.variants.end(),
                                    [](const auto& entry) { return entry.second->complete(); });
    const bool over = kept_bytes_ > config_.options.retention_bytes ||
                      rounds_.size() > kMaxRoundsKept || PAPILIO_MUTANT(results_kept);
    if (!served && !over) return;
    if ((round.local || round.strict) && !round.finished) {
      // The local rank itself is far behind: keep its round, give up what others might ask for.
      break;
    }
    // Who entered a strict collective before this rank does not say so again.
    if (seq > entered_ && !round.early_enters.empty()) break;
    dropVariants(seq, round);
    live_.erase(seq);
    said_waits_.erase(seq);
    forgotten_before_ = Seq{seq.value + 1};
    rounds_.erase(rounds_.begin());
  }
  if (kept_bytes_ <= config_.options.retention_bytes) return;
  for (auto& [seq, round] : rounds_) {
    if (kept_bytes_ <= config_.options.retention_bytes) return;
    if (!quiet(round) || !keepsResults(round)) continue;  // others may wait for what is to come
    dropVariants(seq, round);
    round.given_up = true;
  }
}

}  // namespace papilio::fault
