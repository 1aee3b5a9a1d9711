// What moves rounds on: closing chunks, deadlines, lateness, reducers that do not answer.
#include <algorithm>
#include <utility>

#include "fault/machine.hpp"
#include "fault/mutant.hpp"

namespace papilio::fault {

namespace {
constexpr int kTiePatience = 3;  // x patience
}  // namespace

void Machine::ownDuties(Time now, Seq seq, Round& round, const std::vector<ChunkIndex>& chunks) {
  if (chunks.empty()) return;
  Contribution& local = *round.local;
  Reduction& reduction = variant(now, seq, round, local.schema(), local.shape());
  for (const ChunkIndex chunk : chunks) {
    if (const auto* result = reduction.result(chunk)) {
      effects_.push_back(effect::ApplyOwn{seq, local.schema(), chunk});
      local.gotOwn(chunk, *result);
    } else if (seq < forgotten_before_ || round.given_up) {
      local.gone(members_.me(), chunk, effects_);  // it was reduced and forgotten long ago
    } else if (local.voice(chunk) == Contribution::Voice::follows) {
      reduction.open(chunk);  // its data comes from its leader
    } else if (local.voice(chunk) == Contribution::Voice::listens) {
      giveChunk(now, members_.me(), local.contributionHeader(chunk), reduction);
      local.askAround(now, chunk, effects_);
    } else {
      giveChunk(now, members_.me(), local.contributionHeader(chunk), reduction);
    }
  }
}

// What this rank was to reduce itself went to its successor, its own contribution with it. Here it
// must not count as well: the chunk would close without those who went there.
void Machine::withdrawRedirected(Round& round) {
  const Contribution& local = *round.local;
  const auto it = round.variants.find(local.schema());
  if (it == round.variants.end()) return;
  for (std::uint32_t c = 0; c < local.layout().chunkCount(); ++c) {
    const ChunkIndex chunk{c};
    if (!local.waits(chunk) || local.targetOf(chunk) == members_.me()) continue;
    if (it->second->arrivedAt(chunk).contains(members_.me())) {
      it->second->withdraw(members_.me(), chunk);
    }
  }
}

void Machine::pump(Time now, Seq seq, Round& round) {
  if (round.local && !round.finished) {
    ownDuties(now, seq, round, round.local->advance(now, effects_));
    judgeReducers(now, seq, round);
  }
  closeReady(round, effects_);
  if (round.local && !round.finished && round.local->done()) finishLocal(now, seq, round, {});
  if (round.strict && !round.finished && round.strict->ended()) strictEnded(seq, round);
  if (quiet(round)) {
    live_.erase(seq);
    if (said_waits_.erase(seq) != 0) toOthers(msg::Progress{seq, {}});
  } else {
    live_.insert(seq);
  }
  members_.throughBefore(live_.empty() ? Seq{entered_.value + 1} : *live_.begin());
}

void Machine::reduced(Time now, Seq seq, SchemaHash schema, ChunkIndex chunk,
                      const ContributorSet& actual) {
  Round* round = find(seq);
  if (round == nullptr) return;
  const auto it = round->variants.find(schema);
  if (it == round->variants.end()) return;
  Reduction& reduction = *it->second;
  const bool had_input = holdsInput(seq, chunk) && round->my_schema == schema;
  reduction.reduced(now, chunk, actual, had_input, effects_);
  if (reduction.result(chunk) == nullptr) return pump(now, seq, *round);
  blameForAbsent(now, *round, reduction, seq, chunk);
  kept_bytes_ += reduction.layout().payload(chunk);
  if (reduction.layout().owner(chunk) != members_.me()) ++counters_.redone_chunks;
  if (reduction.firstClose()) noteLags(reduction);
  Contribution* local = round->local.get();
  if (local != nullptr && !round->finished && local->schema() == schema && local->takesOwn(chunk)) {
    effects_.push_back(effect::ApplyOwn{seq, schema, chunk});
    local->gotOwn(chunk, *reduction.result(chunk));
  }
  pump(now, seq, *round);
}

void Machine::noteLags(Reduction& reduction) {
  members_.expected().forEach([&](Rank rank) {
    members_.judged(rank);
    const auto lag = reduction.lagOf(rank);
    if (!lag) return;
    policy_.addLag(*lag);
    members_.recordLag(rank, *lag);
  });
}

void Machine::counted(Rank from, const Reduction& reduction) {
  if (!reduction.here(from)) members_.caughtUp(from);
}

void Machine::tick(Time now) {
  for (const auto& entry : members_.blacklist().expire(now)) {
    notify(EventKind::readmitted, entry.rank, entry.reason, entered_, "its term is over");
    members_.caughtUp(entry.rank);
    opinions_changed_ = true;
  }
  probe(now);
  const std::set<Seq> rounds = live_;
  for (const Seq seq : rounds) {
    if (Round* round = find(seq)) expireRound(now, seq, *round);
  }
  pumpChanged(now);
}

// A rank that is not waited for any more may have been the last one that other rounds waited for;
// no event of theirs would tell.
void Machine::pumpChanged(Time now) {
  if (!std::exchange(opinions_changed_, false)) return;
  const std::set<Seq> rounds = live_;
  for (const Seq seq : rounds) {
    if (Round* round = find(seq)) pump(now, seq, *round);
  }
}

void Machine::expireRound(Time now, Seq seq, Round& round) {
  const ContributorSet voters = members_.present() - round.votes.voters();
  for (auto& [schema, reduction] : round.variants) {
    reduction->excuse(votedOtherwise(round, schema));
    const auto late =
        reduction->expire(now, [this](Rank rank, Rank owner) { return creditsSpent(rank, owner); });
    if (!late.empty()) judgeLate(now, seq, round, late);
    if (reduction->reportProgress(now, voters, effects_)) said_waits_.insert(seq);
    if (reduction->waitingFor().contains(members_.me())) sayHeld(now, seq);
  }
  if (now >= round.vote_until && !round.verdict_known) {
    resolveSchema(now, seq, round, true);
    if (round.strict) strictMismatch(now, seq, round);
    // Still a tie, and some have not voted: they get longer than a mere straggler would.
    const Time last = round.contested_since + kTiePatience * policy_.patience();
    round.vote_until = now < last ? last : kNever;
  }
  if (round.local && !round.finished) {
    Contribution& local = *round.local;
    const auto otherwise =
        voteOpen(round) ? votedOtherwise(round, local.schema()) : ContributorSet{};
    local.overdue(now).forEach([&](Rank rank) {
      if (otherwise.contains(rank)) return local.grantTime(now, rank);  // the vote decides
      suspectReducer(now, seq, rank);
    });
    local.silentLeaders(now).forEach([&](Rank rank) { leaderFailed(now, seq, round, rank); });
    local.leadOn(now, effects_);
    if (now >= local.ceiling() && !PAPILIO_MUTANT(call_has_a_limit)) local.giveUp(effects_);
  }
  if (round.strict && !round.finished) expireStrict(now, seq, round);
  pump(now, seq, round);
}

// Shortly before it times out a strict collective asks those it waits for whom they wait for.
void Machine::expireStrict(Time now, Seq seq, Round& round) {
  if (now >= round.ask_at) {
    round.ask_at = kNever;
    const auto waits = waitedFor(round);
    (waits & members_.present()).forEach([&](Rank to) {
      toControl(to, msg::Progress{seq, waits});
    });
    said_waits_.insert(seq);
  }
  if (now < round.strict->deadline()) return;
  RoundError error;
  error.kind = ErrorKind::deadline_exceeded;
  error.ranks = toBlame(now, seq, round);
  error.reason = Reason::unreachable;
  error.text = "timed out waiting for the ranks named";
  round.strict->fail(std::move(error), effects_);
}

// Credits count over all rounds (core/layout.hpp).
bool Machine::creditsSpent(Rank rank, Rank owner) const {
  std::uint32_t open = 0;
  for (const Seq seq : live_) {
    const Round* round = find(seq);
    if (round == nullptr) continue;
    for (const auto& [schema, reduction] : round->variants) {
      open += reduction->openFrom(rank, owner);
    }
  }
  return open >= kCreditsPerShard && !PAPILIO_MUTANT(credits_excuse);
}

void Machine::judgeLate(Time now, Seq seq, Round& round, const ContributorSet& late) {
  ContributorSet missing = late;
  // The local thread is busy elsewhere while this process reduces for the others: not waited for
  // again until it enters a round that is current.
  if (late.contains(members_.me())) {
    const ContributorSet by = heldUpBy(now, seq);
    const bool own_fault = by.contains(members_.me());
    members_.missed(now, members_.me(), false, own_fault ? std::nullopt : std::optional(by));
    opinions_changed_ = true;
  }
  missing.erase(members_.me());
  // Who waits for others in an earlier round is not waited for either, but it is not to blame.
  ContributorSet held;
  missing.forEach([&](Rank rank) {
    auto by = members_.heldBy(now, rank, seq, late);
    if (!by) by = heldByLeader(rank, late);
    if (!by) return;
    held.insert(rank);
    members_.missed(now, rank, false, by);
    opinions_changed_ = true;
  });
  missing = missing - held;
  const bool isolated = !missing.empty() && this->isolated(now, seq, missing);
  const bool sick = isolated || now < suspect_self_until_;
  if (sick) round.self_suspect = true;
  if (isolated) return doubtSilently(now, missing);
  missing.forEach([&](Rank rank) {
    // Where this rank stands in for a third one that others think dead, the two merely disagree:
    // no reason to call anybody slow.
    if (const auto why = lateness(round, rank)) return struck(now, seq, rank, !sick, *why);
    // Those who think so too must not wait for it once per round either.
    bool stands_in = false;
    members_.all().forEach([&](Rank owner) {
      stands_in =
          stands_in || (owner != members_.me() && members_.reducerFor(owner, seq) == members_.me());
    });
    if (!stands_in) return;
    members_.missed(now, rank, false, ContributorSet{});
    opinions_changed_ = true;
  });
}

// Not waited for again until heard of, and nothing is said against them.
void Machine::doubtSilently(Time now, const ContributorSet& ranks) {
  ranks.forEach([&](Rank rank) { members_.missed(now, rank, false, ContributorSet{}); });
  opinions_changed_ = true;
}

std::optional<std::string> Machine::lateness(const Round& round, Rank rank) const {
  ContributorSet shards;
  bool shown = false;
  bool alone = true;
  for (const auto& [schema, reduction] : round.variants) {
    shards = shards | reduction->shardsAwaited(rank);
    shown = shown || reduction->shown().contains(rank);
    alone = alone && !reduction->hasMedian();
  }
  if (shards.empty()) return std::nullopt;
  const std::string limit = milliseconds(alone ? policy_.aloneBudget() : policy_.budget());
  if (!shown) {
    return "no contribution " + limit + " after the " + (alone ? "first" : "median") + " member";
  }
  std::string names;
  shards.forEach(
      [&](Rank owner) { names += (names.empty() ? "" : ", ") + std::to_string(owner.value); });
  return "it is in the round, but its data for shard " + names + " did not come for " + limit;
}

void Machine::struck(Time now, Seq seq, Rank rank, bool strike, const std::string& why) {
  opinions_changed_ = true;
  if (members_.refusedBy(rank)) {  // nothing is to come from it, and that is no fault of its own
    members_.missed(now, rank, false, ContributorSet{});
    return;
  }
  const bool news = members_.at(rank).pace == Member::Pace::timely;
  if (strike) ++counters_.strikes;
  const bool blacklists = members_.missed(now, rank, strike);
  if (news) notify(EventKind::peer_slow, rank, Reason::slow, seq, why);
  if (!blacklists) return;
  auto& blacklist = members_.blacklist();
  const Duration term = blacklist.nextTerm(now, rank);
  blacklist.add(now, rank, members_.at(rank).incarnation, Reason::slow, term);
  ++counters_.bans;
  toControl(rank, msg::Nack{seq, NackCode::blacklisted, {}, {}, {}, {}});
  notify(EventKind::blacklisted, rank, Reason::slow, seq,
         "too slow " + std::to_string(config_.options.slow_strikes) + " times in 10 rounds; for " +
             milliseconds(term));
}

ContributorSet Machine::votedOtherwise(const Round& round, SchemaHash schema) const {
  if (!round.votes.contested()) return {};
  return round.votes.voters() - round.votes.votersOf(schema);
}

void Machine::blacklistSchema(Time now, Seq seq, Rank rank) {
  if (members_.gone(rank) || rank == members_.me()) return;
  const Round* round = find(seq);
  members_.blacklist().add(now, rank, members_.at(rank).incarnation, Reason::schema, std::nullopt);
  ++counters_.bans;
  std::string theirs = "another shape";
  if (round != nullptr) {
    if (const auto vote = round->votes.of(rank)) {
      if (const auto* shape = round->votes.shapeOf(*vote)) theirs = describe(*shape);
    }
  }
  const auto* mine =
      round != nullptr && round->my_schema ? round->votes.shapeOf(*round->my_schema) : nullptr;
  notify(EventKind::blacklisted, rank, Reason::schema, seq,
         "it has " + theirs + (mine != nullptr ? ", this rank has " + describe(*mine) : "") +
             "; its gradients are disregarded until it returns with the right model");
  toControl(rank, msg::Nack{seq, NackCode::evicted, {}, {}, {}, {}});
  redirectAll(now, rank);
  checkQuorum(now);
}

// Tells `to` once per round what this rank has instead.
void Machine::tellSchema(Seq seq, Round& round, Rank to) {
  if (to == members_.me() || round.nacked.contains(to) || !round.my_schema) return;
  const RoundShape* mine = round.votes.shapeOf(*round.my_schema);
  if (mine == nullptr) return;
  round.nacked.insert(to);
  toControl(
      to, msg::Nack{seq, NackCode::schema, {}, {}, *mine, round.votes.votersOf(*round.my_schema)});
}

void Machine::contested(Time now, Round& round) const {
  if (round.contested_since != kNever) return;
  round.contested_since = now;
  round.vote_until = now + policy_.budget();
}

// A tie among those who came first says nothing while others may still vote.
bool Machine::undecided(const SchemaVotes::Decision& decision, const Round& round, Time now) const {
  if (decision.winner) return false;
  const auto absent = members_.present() - decision.losers;
  return !absent.empty() && now < round.contested_since + kTiePatience * policy_.patience();
}

void Machine::resolveSchema(Time now, Seq seq, Round& round, bool force) {
  if (!round.votes.contested() || round.verdict_known || round.strict) return;
  contested(now, round);
  const auto decision = round.votes.decide(members_.present(), force);
  if (!decision || undecided(*decision, round, now)) return;
  // Without the local rank's own vote only a majority counts: a tie may still turn.
  if (!round.my_schema && !decision->winner) return;
  round.verdict_known = true;
  round.winner = decision->winner;
  if (decision->winner && !decision->losers.empty()) {
    toOthers(msg::Verdict{seq, *decision->winner, decision->winners, decision->losers});
  }
  for (auto it = round.variants.begin(); it != round.variants.end();) {
    if (decision->winner && it->first == *decision->winner) {
      ++it;
      continue;
    }
    kept_bytes_ -= it->second->keptBytes();
    effects_.push_back(effect::Forget{seq, it->first});
    it = round.variants.erase(it);
  }
  if (round.my_schema && round.my_schema != decision->winner) {
    losesSchema(now, seq, round, *decision);
    return;
  }
  if (!round.my_schema) return;  // blacklisting waits until this rank knows its own side
  decision->losers.forEach([&](Rank rank) { blacklistSchema(now, seq, rank); });
}

void Machine::losesSchema(Time now, Seq seq, Round& round, const SchemaVotes::Decision& decision) {
  RoundError error;
  error.kind = ErrorKind::schema_mismatch;
  error.reason = Reason::schema;
  const RoundShape* mine = round.votes.shapeOf(*round.my_schema);
  error.mine = mine != nullptr ? describe(*mine) : "";
  const RoundShape* theirs = nullptr;
  if (decision.winner) {
    theirs = round.votes.shapeOf(*decision.winner);
    error.ranks = decision.winners;
  } else {
    members_.present().forEach([&](Rank rank) {
      const auto vote = round.votes.of(rank);
      if (!vote || *vote == *round.my_schema) return;
      error.ranks.insert(rank);
      theirs = round.votes.shapeOf(*vote);
    });
  }
  error.theirs = theirs != nullptr ? describe(*theirs) : "";
  error.text = std::string(decision.winner ? "most members" : "no majority: other members") +
               " have " + error.theirs + ", this rank has " + error.mine +
               (theirs != nullptr && theirs->codec != mine->codec
                    ? "; set the same codec on all ranks (Options.codec, PAPILIO_CODEC)"
                    : "; check that all ranks build the same model");
  finishLocal(now, seq, round, std::move(error));
  pump(now, seq, round);
}

void Machine::strictMismatch(Time now, Seq seq, Round& round, bool decide_now) {
  if (!round.strict || round.finished || !round.votes.contested()) return;
  contested(now, round);
  members_.all().forEach([&](Rank rank) {
    const auto vote = round.votes.of(rank);
    if (vote && round.my_schema && *vote != *round.my_schema) tellSchema(seq, round, rank);
  });
  const bool due = decide_now || now >= round.vote_until;
  const auto decision = round.votes.decide(members_.present(), due);
  if (!decision || (!decide_now && undecided(*decision, round, now))) return;
  RoundError error;
  error.reason = Reason::schema;
  const RoundShape* mine = round.votes.shapeOf(*round.my_schema);
  error.mine = describe(*mine);
  const bool wins = decision->winner == round.my_schema;
  error.kind = wins ? ErrorKind::peer_failed : ErrorKind::schema_mismatch;
  const ContributorSet others = round.votes.voters() - round.votes.votersOf(*round.my_schema);
  error.ranks = wins ? decision->losers : others & members_.present();
  error.ranks.forEach([&](Rank rank) {
    const auto vote = round.votes.of(rank);
    if (vote) error.theirs = describe(*round.votes.shapeOf(*vote));
  });
  error.text = "the members called different collectives: this rank has " + error.mine +
               ", others have " + error.theirs;
  round.verdict_known = true;
  // Who is outvoted, or accused and can not tell, accuses nobody: those it would name are right,
  // and one that has not seen the votes yet would believe it.
  const bool told = decide_now && !round.votes.decide(members_.present(), false);
  if (!wins && (decision->winner || told)) {
    round.strict->failByItself(std::move(error), effects_);
  } else {
    round.strict->fail(std::move(error), effects_);
  }
  pump(now, seq, round);
}

Time Machine::nextDeadline() const {
  Time next = members_.blacklist().nextExpiry();
  Time verdict = kNever;
  for (const Seq seq : live_) {
    const Round* round = find(seq);
    if (round == nullptr) continue;
    for (const auto& [schema, reduction] : round->variants) {
      const auto due = reduction->due();
      verdict = std::min(verdict, due.verdict);
      next = std::min(next, due.any);
    }
    if (round->local && !round->finished) {
      const Time overdue = round->local->verdictAt();
      verdict = std::min(verdict, overdue);
      next = std::min(next, round->local->nextDeadline(overdue));
    }
    if (round->strict && !round->finished) {
      next = std::min({next, round->strict->deadline(), round->ask_at});
    }
    if (!round->verdict_known) next = std::min(next, round->vote_until);
  }
  return std::min(next, probeAt(verdict));
}

}  // namespace papilio::fault
