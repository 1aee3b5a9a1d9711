// Membership that changes between training steps: each view is an engine group of its own.
#include <algorithm>
#include <chrono>

#include "core/hash.hpp"
#include "process_group/backend.hpp"

namespace papilio::pg {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kLook{50};  // how often a wait looks for deaths

GroupId hashed(std::uint64_t hash) {
  return GroupId{static_cast<std::uint32_t>(hash ^ (hash >> 32))};
}

// Members that may still come: neither there nor known to be lost.
std::map<Rank, std::string> stillAwaited(engine::Group& group,
                                         std::map<Rank, std::string> missing) {
  for (const auto& peer : group.peers()) {
    if (peer.state != fault::PeerState::joining) missing.erase(peer.rank);
  }
  return missing;
}

std::map<Rank, std::string> awaitView(engine::Group& group, Clock::time_point until) {
  while (true) {
    const auto missing = stillAwaited(group, group.waitReady(kLook));
    if (missing.empty() || group.aborted() || Clock::now() >= until) return missing;
  }
}

}  // namespace

Meeting BackendPapilio::membership() const {
  std::lock_guard lock(state_mutex_);
  return met_;
}

bool BackendPapilio::isShutDown() const {
  std::lock_guard lock(state_mutex_);
  return process_ == nullptr;
}

c10::intrusive_ptr<c10d::Store> BackendPapilio::store() const {
  std::lock_guard lock(state_mutex_);
  return store_;
}

void BackendPapilio::keepStore(c10::intrusive_ptr<c10d::Store> store) {
  std::lock_guard lock(state_mutex_);
  store_ = std::move(store);
}

std::string BackendPapilio::record() const {
  std::lock_guard lock(state_mutex_);
  TORCH_CHECK_WITH(DistBackendError, process_ != nullptr, "papilio: group ", name_,
                   " was shut down");
  return process_->engine().localRecord();
}

void BackendPapilio::want(const Joiner& joiner) { group()->want(joiner); }

std::pair<std::size_t, std::size_t> BackendPapilio::meetMembers(
    const std::vector<std::string>& records) {
  std::shared_ptr<Process> process;
  {
    std::lock_guard lock(state_mutex_);
    process = process_;
  }
  if (!process) return {};
  for (const auto& record : records) process->engine().meet(record);
  return process->engine().reachable(records);
}

engine::Boundary BackendPapilio::boundary() {
  settleDevice();
  return group()->boundary();
}

Meeting BackendPapilio::following(const NextView& next) const {
  std::lock_guard lock(state_mutex_);
  Meeting out = met_;
  out.view = ViewNumber{met_.view.value + 1};
  out.boundaries = next.step;
  out.absent = ContributorSet::firstN(static_cast<std::uint32_t>(size_)) - next.members;
  out.fresh = {};
  for (const auto& joiner : next.joiners) {
    if (joiner.rank.value >= out.records.size()) continue;
    out.records[joiner.rank.value] = joiner.record;
    out.fresh.insert(joiner.rank);
  }
  auto identity = hashCombine(met_.id.value, out.view.value);
  for (const auto& record : out.records) identity = hashCombine(identity, hashBytes(record));
  for (const auto word : next.members.words()) identity = hashCombine(identity, word);
  out.id = hashed(hashCombine(identity, next.step));
  return out;
}

std::map<Rank, std::string> BackendPapilio::install(Meeting next) {
  requireOwnProcess("a change of members");
  std::lock_guard one_at_a_time(reconfigure_mutex_);
  auto group = open(next, rank_, timeout_.load());
  {
    std::lock_guard lock(state_mutex_);
    forming_ = group;
  }
  const auto missing = awaitView(*group, Clock::now() + settings_.group.patience);
  {
    std::lock_guard lock(state_mutex_);
    forming_ = nullptr;
  }
  TORCH_CHECK_WITH(DistBackendError, !group->aborted(), "papilio: group ", name_,
                   " was aborted while its members changed");
  ContributorSet given_up;
  for (const auto& [rank, why] : missing) given_up.insert(rank);
  if (!missing.empty()) {
    group->giveUpOn(given_up, "it did not come to view " + std::to_string(next.view.value) +
                                  " within patience");
  }
  std::shared_ptr<engine::Group> before;
  {
    std::lock_guard lock(state_mutex_);
    before = std::move(group_);
  }
  join(std::move(group), std::move(next), rank_);
  ++generation_;
  // Whoever is in the new view has finished its rounds of the old one.
  if (before) before->retire();
  return missing;
}

void BackendPapilio::beAlone(Meeting met) {
  met.view = ViewNumber{0};
  met.fresh = {};
  met.absent = ContributorSet::firstN(static_cast<std::uint32_t>(size_));
  met.absent.erase(Rank{static_cast<std::uint32_t>(rank_)});
  // Nobody else ever has this identity.
  Meeting own = met;
  own.id = hashed(hashCombine(hashBytes(record()), generation_.load() + identity_));
  own.records.assign(own.records.size(), "");
  join(open(own, rank_, timeout_.load()), std::move(met), rank_);
}

void BackendPapilio::withdraw() {
  requireOwnProcess("to leave the group");
  settleDevice();
  std::lock_guard one_at_a_time(reconfigure_mutex_);
  std::shared_ptr<engine::Group> before;
  Meeting met;
  {
    std::lock_guard lock(state_mutex_);
    before = std::move(group_);
    group_ = nullptr;
    no_group_ = "it leaves the group to come back as a new member";
    met = met_;
  }
  if (before) before->leave();
  ++generation_;
  beAlone(std::move(met));
}

}  // namespace papilio::pg
