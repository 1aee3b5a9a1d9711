// Control messages. Every one is a hint from a peer: it may end a wait or redirect traffic, it
// never adds a byte to a sum.
#include <algorithm>

#include "fault/machine.hpp"
#include "fault/mutant.hpp"

namespace papilio::fault {

namespace {
constexpr std::size_t kFailuresKept = 64;
}

void Machine::control(Time now, Rank from, const ControlBody& body) {
  heard(now, from);
  std::visit([&](const auto& message) { on(now, from, message); }, body);
}

void Machine::on(Time, Rank, const msg::Join&) {}  // the engine turns it into peerUp

void Machine::on(Time now, Rank from, const msg::Leave&) {
  peerGone(now, from, Reason::left, "left the group");
}

void Machine::on(Time now, Rank from, const msg::Enter& enter) {
  if (members_.gone(from)) {
    refuseStrict(enter.seq, from);
    Round* running = find(enter.seq);
    if (running == nullptr || !running->strict || running->finished) return;
    running->strict->peerGone(from, members_.goneReason(from), effects_);
    return pump(now, enter.seq, *running);
  }
  if (const auto failed = strict_failures_.find(enter.seq); failed != strict_failures_.end()) {
    return toControl(from, failed->second);  // it comes when all is over
  }
  if (!inWindow(from, enter.seq)) return;
  newest_ = std::max(newest_, enter.seq);
  Round& round = rounds_[enter.seq];
  const SchemaHash schema = schemaOf(enter.shape, config_.group, config_.view);
  round.votes.add(from, schema, enter.shape);
  if (round.strict) {
    if (schema == round.strict->schema()) {
      round.strict->peerEntered(from, enter.members, effects_);
    }
    strictMismatch(now, enter.seq, round);
  } else if (round.my_schema) {
    tellSchema(enter.seq, round, from);
    resolveSchema(now, enter.seq, round, false);
  } else {
    round.early_enters[from] = enter;
  }
  pump(now, enter.seq, round);
}

// It is out of the group here and does not know it: nobody waits for it, and it must wait for
// nobody.
void Machine::refuseStrict(Seq seq, Rank to) {
  ContributorSet culprit;
  culprit.insert(to);
  const auto reason = static_cast<std::uint8_t>(members_.goneReason(to));
  toControl(to, msg::StrictFailed{seq, culprit, reason});
}

void Machine::on(Time now, Rank from, const msg::StrictFailed& failure) {
  if (!inWindow(from, failure.seq)) return;
  Round& round = rounds_[failure.seq];
  if (round.strict) {
    strictFailedBy(now, from, failure, round);
  } else if (!round.my_schema) {
    round.early_failures.emplace(from, failure);
  }
  pump(now, failure.seq, round);
}

void Machine::strictFailedBy(Time now, Rank from, const msg::StrictFailed& failure, Round& round) {
  // Told to be the odd one out before all shapes were seen: what is known names both sides.
  const bool accused = failure.culprits.contains(members_.me()) &&
                       failure.reason == static_cast<std::uint8_t>(Reason::schema);
  if (accused) strictMismatch(now, failure.seq, round, true);
  round.strict->peerFailedIt(from, failure, effects_);
}

void Machine::on(Time now, Rank from, const msg::Handover& handover) {
  Round* round = find(handover.seq);
  if (round == nullptr || !round->strict || round->finished) return;
  round->strict->handover(from, handover, effects_);
  pump(now, handover.seq, *round);
}

std::unique_ptr<StrictRound> Machine::makeStrict(Seq seq, SchemaHash schema, StrictSpec spec,
                                                 Time deadline) {
  if (spec.shape.kind == OpKind::broadcast && !spec.shape.strict) {
    return std::make_unique<TolerantBroadcast>(members_, seq, schema, std::move(spec), deadline);
  }
  return std::make_unique<StrictRound>(members_, seq, schema, std::move(spec), deadline);
}

void Machine::strictEnded(Seq seq, Round& round) {
  round.finished = true;
  --active_;
  if (round.strict->failure()) strict_failures_.emplace(seq, *round.strict->failure());
  if (strict_failures_.size() > kFailuresKept) strict_failures_.erase(strict_failures_.begin());
  for (auto& effect : effects_) {
    auto* finish = std::get_if<effect::Finish>(&effect);
    if (finish == nullptr || finish->seq != seq) continue;
    finish->report.view = config_.view;
    finish->report.self_suspect = finish->report.self_suspect || round.self_suspect;
    ++(finish->error                                 ? counters_.rounds_failed
       : finish->report.outcome == Outcome::complete ? counters_.rounds_complete
                                                     : counters_.rounds_degraded);
  }
  const auto acting = round.strict->standIn();
  if (!acting) return;
  // Said once: with DDP's buffers every forward pass would repeat it.
  const Rank root{round.strict->spec().shape.root};
  const auto [known, fresh] = stand_ins_.emplace(root, *acting);
  if (!fresh && known->second == *acting) return;
  known->second = *acting;
  notify(EventKind::view, root, members_.blameFor(root), seq,
         "rank " + std::to_string(acting->value) + " stands in for rank " +
             std::to_string(root.value) + " as root of broadcasts: all get its tensor");
}

void Machine::on(Time now, Rank from, const msg::Nack& nack) {
  if (nack.code == NackCode::stale) {
    Member& member = members_.at(from);
    member.gone_before = std::max(member.gone_before, nack.oldest);
    const std::set<Seq> rounds = live_;
    for (const Seq seq : rounds) {
      Round* round = find(seq);
      if (seq >= nack.oldest || round == nullptr || round->finished) continue;
      if (round->strict && seq == nack.seq && !round->strict->entered().contains(from)) {
        // The answer to ENTER: over without this rank, so long ago that nobody knows how.
        ContributorSet self;
        self.insert(members_.me());
        const auto reason = static_cast<std::uint8_t>(Reason::slow);
        round->strict->peerFailedIt(from, {seq, self, reason}, effects_);
        pump(now, seq, *round);
      }
      if (!round->local) continue;
      for (std::uint32_t c = 0; c < round->local->layout().chunkCount(); ++c) {
        round->local->stale(now, from, ChunkIndex{c});
      }
      pump(now, seq, *round);
    }
    return;
  }
  if (nack.code == NackCode::evicted) {
    evicted_by_.insert(from);
    members_.at(from).refuses = true;
    if (evicted()) failEvicted(now);
    return;
  }
  if (nack.code == NackCode::corrupt) return sendAgain(from, nack);
  Round* round = find(nack.seq);
  if (round == nullptr) return;
  if (nack.code == NackCode::schema) {
    const SchemaHash theirs = schemaOf(nack.shape, config_.group, config_.view);
    round->votes.add(from, theirs, nack.shape);
    (nack.agreeing & members_.all()).forEach([&](Rank rank) {
      if (rank != members_.me()) round->votes.add(rank, theirs, nack.shape);
    });
    if (round->strict) {
      strictMismatch(now, nack.seq, *round);
    } else {
      resolveSchema(now, nack.seq, *round, false);
    }
  } else if (nack.code == NackCode::blacklisted) {
    round->self_suspect = true;
    // `oldest` beyond the round: it is over there, and no result of this chunk will come.
    if (nack.oldest > nack.seq && round->local && !round->finished) {
      round->local->stale(now, from, nack.chunk);
    }
  }
  pump(now, nack.seq, *round);
}

// A chunk arrived damaged. When its result has left already, or was sent often enough, whoever
// waits for it must hear so: it would stand still for a whole budget otherwise.
void Machine::sendAgain(Rank to, const msg::Nack& nack) {
  if (Round* round = find(nack.seq)) {
    for (auto& [schema, reduction] : round->variants) {
      if (reduction->result(nack.chunk) == nullptr || !reduction->mayResend(to, nack.chunk))
        continue;
      effects_.push_back(effect::SendResult{to, nack.seq, schema, nack.chunk, 0});
      return;
    }
    const bool mine = round->local && !round->finished;
    if (mine && round->local->resend(to, nack.chunk, effects_)) return;
  }
  if (PAPILIO_MUTANT(damage_is_answered)) return;
  const ChunkRange one{nack.chunk.value, nack.chunk.value + 1};
  toControl(to, msg::None{nack.seq, one});
}

// More than half of the others go on without this rank.
bool Machine::evicted() const {
  const auto others = members_.present().count() - 1;
  return (evicted_by_ & members_.present()).count() * 2 > others;
}

RoundError Machine::evictedError() const {
  RoundError error{ErrorKind::evicted, evicted_by_, Reason::schema, {}, {}, {}};
  error.text =
      "the ranks named have another model and went on without this one; restart it with the "
      "right model";
  return error;
}

void Machine::failEvicted(Time now) {
  const std::set<Seq> rounds = live_;
  for (const Seq seq : rounds) {
    Round* round = find(seq);
    if (round == nullptr || round->finished) continue;
    // Where the vote is still open, both shapes are the better explanation.
    resolveSchema(now, seq, *round, true);
    if (round->local) finishLocal(now, seq, *round, evictedError());
    pump(now, seq, *round);
  }
}

void Machine::on(Time now, Rank from, const msg::Verdict& verdict) {
  (verdict.losers & members_.all()).forEach([&](Rank rank) { members_.at(rank).voted_out = true; });
  if (!inWindow(from, verdict.seq)) return;
  Round* round = &rounds_[verdict.seq];
  if (round->strict) return;
  if (!round->my_schema) {  // whether it is right shows when this rank enters
    if (round->early_verdicts.size() < config_.size) round->early_verdicts.push_back(verdict);
    return;
  }
  if (*round->my_schema == verdict.schema) {
    const bool majority = verdict.winners.count() * 2 > members_.present().count();
    if (!majority && !verdict.winners.contains(members_.me())) return;
    (verdict.losers & members_.all()).forEach([&](Rank rank) {
      // Somebody whom this rank saw with the right schema is not accused by hearsay.
      if (round->votes.of(rank) == round->my_schema) return;
      blacklistSchema(now, verdict.seq, rank);
    });
    // The winners will not vote here: they are through. Without theirs the vote stays open, and
    // nothing closes before it is over.
    const RoundShape* mine = round->votes.shapeOf(verdict.schema);
    if (mine != nullptr && !PAPILIO_MUTANT(verdict_ends_the_vote)) {
      const RoundShape shape = *mine;
      (verdict.winners & members_.all()).forEach([&](Rank rank) {
        round->votes.add(rank, verdict.schema, shape);
      });
      resolveSchema(now, verdict.seq, *round, false);
      pump(now, verdict.seq, *round);
    }
    return;
  }
  const RoundShape* shape = round->votes.shapeOf(verdict.schema);
  if (shape == nullptr) return;
  const RoundShape theirs = *shape;
  (verdict.winners & members_.all()).forEach([&](Rank rank) {
    if (rank != members_.me()) round->votes.add(rank, verdict.schema, theirs);
  });
  resolveSchema(now, verdict.seq, *round, false);
}

void Machine::on(Time now, Rank from, const msg::Progress& progress) {
  members_.noteWaits(now, from, progress.seq, progress.missing);
  Round* round = find(progress.seq);
  const bool vote = round != nullptr && voteOpen(*round);
  if (progress.missing.empty() && !vote) return;  // it waits no longer: no sign of life to come
  if (!PAPILIO_MUTANT(progress_is_life)) members_.at(from).reducer_life = now;
  if (round != nullptr && round->local) round->local->reducerWaits(now, from);
  if (!progress.missing.contains(members_.me())) return;
  const Seq before = oldestActive();
  if (progress.seq < before) {
    toControl(from, msg::Settled{progress.seq, {}, before});
    return;
  }
  if (round != nullptr && round->strict) {
    // It is about to give up because of this rank, which may wait itself.
    if (!round->finished) sayWaits(now, progress.seq, *round);
    return;
  }
  if (!members_.mayReduce(from, progress.seq) && !members_.gone(from)) {
    // It waits in vain: its shards go elsewhere, and it has not heard so.
    toControl(from, msg::Suspect{from, progress.seq});
  }
  if (round != nullptr && round->local) {
    // It may wait in vain: rounds end out of order, and what this rank routed around it stays
    // there.
    for (const auto& range : round->local->notAt(from)) {
      toControl(from, msg::Settled{progress.seq, range, before});
    }
    // It may wait for contributions of another schema, which this rank will never send.
    const bool sends = round->local->waitsAt().contains(from) || round->local->follows();
    const bool differs = round->votes.of(from) != round->my_schema;
    if (!round->finished && differs && (round->votes.contested() || !sends)) {
      tellSchema(progress.seq, *round, from);
    }
  }
  sayHeld(now, progress.seq);
}

void Machine::on(Time now, Rank from, const msg::Fetch& fetch) {
  const Round* round = find(fetch.seq);
  if (round == nullptr) {
    const bool over = fetch.seq < forgotten_before_;
    const auto known = over ? msg::Known::came : msg::Known::nothing;
    return toControl(from, msg::None{fetch.seq, fetch.chunks, known});
  }
  const Contribution* local = round->local.get();
  std::uint32_t count = local != nullptr ? local->layout().chunkCount() : 0;
  for (const auto& [schema, reduction] : round->variants) {
    count = std::max(count, reduction->layout().chunkCount());
  }
  msg::None none{fetch.seq, {fetch.chunks.first, fetch.chunks.first}};
  const auto flush = [&](std::uint32_t next) {
    if (none.chunks.last > none.chunks.first) toControl(from, none);
    none.chunks = {next, next};
  };
  for (std::uint32_t c = fetch.chunks.first; c < std::min(fetch.chunks.last, count); ++c) {
    const ChunkIndex chunk{c};
    bool held = false;
    for (const auto& [schema, reduction] : round->variants) {
      if (reduction->result(chunk) == nullptr) continue;
      effects_.push_back(effect::SendResult{from, fetch.seq, schema, chunk, kFetched});
      held = true;
      break;
    }
    const bool mine = local != nullptr && c < local->layout().chunkCount();
    const auto known = mine ? local->known(now, chunk) : msg::Known::nothing;
    if (!held && known == msg::Known::came && !round->finished) {
      effects_.push_back(effect::SendHeld{from, fetch.seq, chunk});
      held = true;
    }
    if (held || known != none.known) flush(held ? c + 1 : c);
    none.known = known;
    if (!held) none.chunks.last = c + 1;
  }
  if (fetch.chunks.last > count) none.chunks.last = fetch.chunks.last;
  flush(0);
}

void Machine::on(Time now, Rank from, const msg::None& none) {
  Round* round = find(none.seq);
  if (round == nullptr || !round->local || round->finished) return;
  // From the leader, of a chunk that this rank is to reduce: it went around this rank.
  const ChunkIndex first{none.chunks.first};
  if (round->local->follows(from, first) && round->local->targetOf(first) == members_.me()) {
    leaderFailed(now, none.seq, *round, from);
  }
  round->local->gotNone(now, from, none, effects_);
  pump(now, none.seq, *round);
}

void Machine::on(Time now, Rank from, const msg::Settled& settled) {
  if (PAPILIO_MUTANT(settled)) return;
  Member& member = members_.at(from);
  const bool news = settled.all_before > member.settled_before;
  if (news) member.settled_before = settled.all_before;
  if (Round* round = find(settled.seq)) {
    for (auto& [schema, reduction] : round->variants) reduction->settle(from, settled.chunks);
    // A leader that has given the whole round up does not speak for this rank either.
    const bool whole = round->local && settled.chunks.first == 0 &&
                       settled.chunks.last >= round->local->layout().chunkCount();
    if (whole) leaderFailed(now, settled.seq, *round, from);
    pump(now, settled.seq, *round);
  }
  if (!news) return;
  const std::set<Seq> rounds = live_;
  for (const Seq seq : rounds) {
    if (seq >= settled.all_before) break;
    if (Round* round = find(seq)) pump(now, seq, *round);
  }
}

}  // namespace papilio::fault
