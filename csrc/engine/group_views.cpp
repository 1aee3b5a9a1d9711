// Membership of a group: what the ballot machine decided, and the rank that stands at a boundary.
#include "engine/group_runtime.hpp"

namespace papilio::engine {

// The rank counts its boundary before it looks at `asks`; here `asks` is set before the count is
// read. So a boundary that was not counted here will ask.
void GroupRuntime::changeView(const std::function<void(std::uint64_t)>& event) {
  shared_->asks = true;
  event(shared_->boundaries.load());
  for (auto effects = views_.takeEffects(); !effects.empty(); effects = views_.takeEffects()) {
    for (const auto& effect : effects) {
      std::visit([&](const auto& e) { perform(e); }, effect);
    }
  }
  shared_->asks = views_.asks();
}

void GroupRuntime::boundary(std::uint64_t step, std::function<void(const Boundary&)> answer) {
  answerBoundary({Boundary::Kind::ended, {}, {}});  // two threads at once: the older one loses
  boundary_ = std::move(answer);
  changeView([&](std::uint64_t) { views_.arrived(host_.now(), step); });
}

void GroupRuntime::want(const Joiner& joiner) {
  changeView([&](std::uint64_t) { views_.want(host_.now(), joiner); });
}

void GroupRuntime::unwant(const Joiner& joiner) {
  changeView([&](std::uint64_t) { views_.unwant(joiner); });
}

void GroupRuntime::answerBoundary(Boundary answer) {
  if (const auto waiting = std::exchange(boundary_, nullptr)) waiting(answer);
}

void GroupRuntime::perform(const fault::view::SendControl& e) {
  if (joined_.contains(e.to)) {
    host_.sendControl(peers_[e.to.value], ControlMessage{config_.id, e.ballot});
  }
}

void GroupRuntime::perform(const fault::view::Pass&) { answerBoundary({}); }

void GroupRuntime::perform(const fault::view::Install& e) {
  answerBoundary({Boundary::Kind::install, e.next, {}});
}

void GroupRuntime::perform(const fault::view::Expelled& e) {
  answerBoundary({Boundary::Kind::expelled, e.next, {}});
}

void GroupRuntime::perform(const fault::view::Undecided& e) {
  answerBoundary({Boundary::Kind::undecided, {}, e.silent});
}

void GroupRuntime::announceView() {
  const auto list = [](const ContributorSet& ranks) {
    std::string out;
    ranks.forEach([&](Rank rank) { out += (out.empty() ? "" : ",") + std::to_string(rank.value); });
    return out;
  };
  const auto members = ContributorSet::firstN(config_.size) - config_.absent;
  fault::Event event;
  event.kind = fault::EventKind::view;
  event.rank = config_.rank;
  event.detail = "view " + std::to_string(config_.view.value) + " begins after step " +
                 std::to_string(config_.boundaries) + " with ranks " + list(members);
  if (!config_.absent.empty()) event.detail += ", without " + list(config_.absent);
  if (!config_.fresh.empty()) event.detail += "; new: " + list(config_.fresh);
  host_.log(LogLevel::warn, prefix(Seq{}) + event.detail);
  if (!config_.on_event) return;
  config_.on_event(event);
  event.kind = fault::EventKind::rejoined;
  config_.fresh.forEach([&](Rank rank) {
    event.rank = rank;
    config_.on_event(event);
  });
}

}  // namespace papilio::engine
