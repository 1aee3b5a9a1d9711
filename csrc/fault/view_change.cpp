#include "fault/view_change.hpp"

#include <algorithm>
#include <utility>

#include "core/hash.hpp"

namespace papilio::fault {

namespace {

// A ballot's number names its coordinator in the low bits, so that no two are equal.
constexpr std::uint64_t kRoundStep = 1ULL << 16;
// How often patience a rank stands at a boundary without an outcome.
constexpr int kHoldPatiences = 4;

Rank coordinatorOf(std::uint64_t number) {
  return Rank{static_cast<std::uint32_t>(number % kRoundStep)};
}

}  // namespace

ViewChange::ViewChange(Config config)
    : config_(std::move(config)),
      takeover_(std::clamp<Duration>(config_.patience / 4, 200ms, 2s)),
      random_(mix64(config_.seed + config_.me.value)) {}

// Events.

void ViewChange::want(Time now, const Joiner& joiner) {
  wants_[joiner.rank] = joiner;
  schedule(now);
}

void ViewChange::unwant(const Joiner& joiner) {
  const auto it = wants_.find(joiner.rank);
  if (it != wants_.end() && it->second == joiner) wants_.erase(it);
}

void ViewChange::gone(Time now, Rank rank, Gone how, std::uint64_t reached) {
  if (!config_.members.contains(rank)) return;
  gone_.insert(rank);
  if (how != Gone::away) ended_.insert(rank);
  if (how == Gone::left) left_.insert(rank);
  if (decided_) return;
  if (promised_ != 0 && coordinatorOf(promised_) == rank) next_attempt_ = now + turn();
  if (needed(reached)) schedule(now);
  at_first_boundary_ = reached == 0 && needed(1);
  maybePropose(now, reached);
  maybeDecide(false);
}

void ViewChange::control(Time now, Rank from, const msg::Ballot& ballot, std::uint64_t reached) {
  if (!config_.members.contains(from)) return;
  highest_ = std::max(highest_, ballot.number);
  if (ballot.stage == BallotStage::decide) {
    if (!decided_) decide(*ballot.next);
    return;
  }
  if (decided_) {
    const bool asks = ballot.stage == BallotStage::prepare || ballot.stage == BallotStage::propose;
    msg::Ballot answer{BallotStage::decide, ballot.number, 0, 0, decided_};
    if (asks) effects_.push_back(view::SendControl{from, std::move(answer)});
    return;
  }
  const bool mine = ballot.number == number_;
  switch (ballot.stage) {
    case BallotStage::prepare: return onPrepare(now, from, ballot, reached);
    case BallotStage::propose: return onPropose(now, from, ballot);
    case BallotStage::promise:
      if (phase_ != Phase::prepare || !mine) return;
      promises_[from] = {ballot.step, ballot.accepted, ballot.next};
      return maybePropose(now, reached);
    case BallotStage::accept:
      if (phase_ != Phase::propose || !mine) return;
      accepts_.insert(from);
      return maybeDecide(false);
    case BallotStage::refuse:
      if (phase_ != Phase::none && ballot.number > number_) standBack(now);
      return;
    case BallotStage::decide: return;
  }
}

void ViewChange::arrived(Time now, std::uint64_t step) {
  waiting_ = step;
  wait_until_ = now + config_.patience * kHoldPatiences;
  if (std::exchange(at_first_boundary_, false) && needed(step)) schedule(now);
  resolve();
}

void ViewChange::tick(Time now, std::uint64_t reached) {
  if (now >= phase_until_ && phase_ == Phase::prepare) {
    ContributorSet heard;
    for (const auto& [rank, promise] : promises_) heard.insert(rank);
    if (quorumOf(heard)) {
      propose(now, reached);
    } else {
      standBack(now);
    }
  } else if (now >= phase_until_ && phase_ == Phase::propose) {
    maybeDecide(true);
    if (!decided_) standBack(now);
  }
  if (!decided_ && phase_ == Phase::none && now >= next_attempt_) {
    next_attempt_ = kNever;
    if (promised_ != 0 || needed(reached)) start(now, reached);
  }
  if (waiting_ && now >= wait_until_) {
    waiting_.reset();
    wait_until_ = kNever;
    effects_.push_back(view::Undecided{gone_});
  }
}

Time ViewChange::nextDeadline() const {
  return std::min({next_attempt_, phase_until_, wait_until_});
}

// Acceptor.

void ViewChange::onPrepare(Time now, Rank from, const msg::Ballot& ballot, std::uint64_t reached) {
  if (ballot.number <= promised_) {
    msg::Ballot answer{BallotStage::refuse, promised_, 0, 0, {}};
    effects_.push_back(view::SendControl{from, std::move(answer)});
    return;
  }
  promised_ = ballot.number;
  phase_ = Phase::none;  // of an own ballot that is older
  phase_until_ = kNever;
  next_attempt_ = now + config_.patience + turn();
  msg::Ballot answer{BallotStage::promise, ballot.number, reached, accepted_number_, accepted_};
  effects_.push_back(view::SendControl{from, std::move(answer)});
}

void ViewChange::onPropose(Time now, Rank from, const msg::Ballot& ballot) {
  if (ballot.number < promised_) {
    msg::Ballot answer{BallotStage::refuse, promised_, 0, 0, {}};
    effects_.push_back(view::SendControl{from, std::move(answer)});
    return;
  }
  promised_ = accepted_number_ = ballot.number;
  accepted_ = ballot.next;
  next_attempt_ = now + config_.patience + turn();
  msg::Ballot answer{BallotStage::accept, ballot.number, 0, 0, {}};
  effects_.push_back(view::SendControl{from, std::move(answer)});
  resolve();
}

void ViewChange::decide(const NextView& next) {
  decided_ = next;
  phase_ = Phase::none;
  phase_until_ = next_attempt_ = kNever;
  // Everybody tells everybody: who decided may have died before all had heard.
  toReachable({BallotStage::decide, std::max<std::uint64_t>(highest_, 1), 0, 0, decided_});
  resolve();
}

void ViewChange::resolve() {
  if (!waiting_) return;
  if (!decided_) {
    const bool unresolved = promised_ > accepted_number_;
    if (unresolved || (accepted_ && *waiting_ >= accepted_->step)) return;
    effects_.push_back(view::Pass{});
  } else if (!decided_->members.contains(config_.me) || *waiting_ > decided_->step) {
    effects_.push_back(view::Expelled{*decided_});
  } else if (*waiting_ == decided_->step) {
    effects_.push_back(view::Install{*decided_});
  } else {
    effects_.push_back(view::Pass{});
  }
  waiting_.reset();
  wait_until_ = kNever;
}

// Coordinator.

bool ViewChange::needed(std::uint64_t reached) const {
  const auto there = reachable();  // a slot is given away when its process does not answer
  for (const auto& [rank, joiner] : wants_) {
    if (!there.contains(rank)) return true;
  }
  // Without boundaries no view can ever begin; a rank that has reached none may never do.
  return reached != 0 && !(gone_ - left_).empty();
}

Duration ViewChange::turn() const {
  std::uint32_t before = 0;
  reachable().forEach([&](Rank rank) { before += rank < config_.me ? 1 : 0; });
  return takeover_ * before;
}

void ViewChange::schedule(Time now) {
  if (!decided_ && phase_ == Phase::none && next_attempt_ == kNever) next_attempt_ = now + turn();
}

void ViewChange::standBack(Time now) {
  phase_ = Phase::none;
  phase_until_ = kNever;
  random_ = mix64(random_);
  next_attempt_ = now + takeover_ / 2 + takeover_ * static_cast<int>(random_ % 64) / 64;
}

bool ViewChange::quorumOf(const ContributorSet& set) const {
  const bool live = config_.quorum == Quorum::live;
  const auto voters = live ? config_.members - ended_ : config_.members;
  return (set & voters).count() * 2 > voters.count();
}

void ViewChange::toReachable(const msg::Ballot& ballot) {
  reachable().forEach([&](Rank to) {
    if (to != config_.me) effects_.push_back(view::SendControl{to, ballot});
  });
}

void ViewChange::start(Time now, std::uint64_t reached) {
  highest_ = std::max(highest_, promised_);
  number_ = (highest_ / kRoundStep + 1) * kRoundStep + config_.me.value;
  highest_ = promised_ = number_;
  phase_ = Phase::prepare;
  phase_until_ = now + config_.patience;
  promises_.clear();
  accepts_ = {};
  promises_[config_.me] = {reached, accepted_number_, accepted_};
  toReachable({BallotStage::prepare, number_, 0, 0, {}});
  maybePropose(now, reached);
}

void ViewChange::maybePropose(Time now, std::uint64_t reached) {
  if (phase_ != Phase::prepare) return;
  ContributorSet heard;
  for (const auto& [rank, promise] : promises_) heard.insert(rank);
  if ((reachable() - heard).empty() && quorumOf(heard)) propose(now, reached);
}

NextView ViewChange::fresh() const {
  NextView next;
  for (const auto& [rank, promise] : promises_) {
    next.members.insert(rank);
    next.step = std::max(next.step, promise.step + 1);
  }
  for (const auto& [rank, joiner] : wants_) {
    // As long as the slot's process answers, nobody else can have the slot.
    if (promises_.contains(rank) || next.joiners.size() == kMaxJoiners) continue;
    next.members.insert(rank);
    next.joiners.push_back(joiner);
  }
  return next;
}

void ViewChange::propose(Time now, std::uint64_t reached) {
  promises_[config_.me] = {reached, accepted_number_, accepted_};
  const Promise* newest = nullptr;
  for (const auto& [rank, promise] : promises_) {
    if (promise.accepted == 0 || !promise.next) continue;
    if (newest == nullptr || promise.accepted > newest->accepted) newest = &promise;
  }
  // What may have been decided already is proposed again.
  proposal_ = newest != nullptr ? *newest->next : fresh();
  phase_ = Phase::propose;
  phase_until_ = now + config_.patience;
  accepts_ = {};
  accepts_.insert(config_.me);
  accepted_number_ = number_;
  accepted_ = proposal_;
  toReachable({BallotStage::propose, number_, 0, 0, proposal_});
  resolve();
  maybeDecide(false);
}

void ViewChange::maybeDecide(bool overdue) {
  if (phase_ != Phase::propose || !quorumOf(accepts_)) return;
  // All that can answer should know before it is decided; the silent ones hear of it later.
  const auto asked = proposal_->members & reachable();
  if (overdue || (asked - accepts_).empty()) decide(NextView{*proposal_});
}

}  // namespace papilio::fault
