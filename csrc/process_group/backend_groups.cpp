// Where groups come from: entering one, and making new ones of the members of this one.
#include <algorithm>
#include <set>

#include "core/hash.hpp"
#include "process_group/backend.hpp"
#include "process_group/interpreter.hpp"
#include "process_group/tiered_group.hpp"

namespace papilio::pg {

namespace {

constexpr int kShrinkAborts = 1;  // torch.distributed's SHRINK_ABORT

std::string joinedRanks(const std::vector<int>& ranks) {
  std::string out;
  for (const int rank : ranks) out += (out.empty() ? "" : ",") + std::to_string(rank);
  return out;
}

void requireMembers(const std::vector<int>& ranks, int size, const char* what) {
  const std::set<int> distinct(ranks.begin(), ranks.end());
  TORCH_CHECK_VALUE(!ranks.empty() && distinct.size() == ranks.size() && *distinct.begin() >= 0 &&
                        *distinct.rbegin() < size,
                    "papilio: ", what, " of ranks [", joinedRanks(ranks),
                    "]: they must be different ranks of this group of ", size);
}

}  // namespace

std::shared_ptr<engine::Group> BackendPapilio::open(const Meeting& met, int rank, Millis timeout) {
  std::shared_ptr<Process> process;
  {
    std::lock_guard lock(state_mutex_);
    process = process_;
  }
  TORCH_CHECK_WITH(DistBackendError, process != nullptr, "papilio: group ", name_,
                   " was shut down");
  engine::GroupConfig config;
  config.name = name_;
  config.id = met.id;
  config.rank = Rank{static_cast<std::uint32_t>(rank)};
  config.size = static_cast<std::uint32_t>(met.records.size());
  config.records = met.records;
  config.options = settings_.group;
  config.options.timeout = timeout;
  config.view = met.view;
  config.boundaries = met.boundaries;
  config.absent = met.absent;
  config.fresh = met.fresh;
  if (met.view == ViewNumber{0}) {
    config.absent_because = fault::Reason::left;
    config.options.min_peers = 1;
  }
  if (!settings_.fingerprint.empty()) {
    config.options.fingerprint = hashBytes(settings_.fingerprint) | 1;
  }
  config.report_history = settings_.report_history;
  if (listeners_.on_event) {
    // The handler needs the interpreter lock: never on the progress thread.
    config.on_event = [callbacks = process->sharedCallbacks(), handler = listeners_.on_event,
                       group = name_](const fault::Event& event) {
      callbacks->post([=] { handler(group, event); });
    };
  }
  auto tiers = tiersFor(*process, met, config);
  auto group = process->engine().createGroup(std::move(config));
  if (!tiers.host) return group;
  return std::make_shared<TieredGroup>(std::move(group), std::move(tiers.host),
                                       std::move(tiers.device));
}

std::string BackendPapilio::describe(const Meeting& met,
                                     const std::map<Rank, std::string>& missing) const {
  std::string text;
  for (const auto& [peer, why] : missing) {
    text += (text.empty() ? "rank " : ", rank ") + std::to_string(peer.value) + " (" + why + ", " +
            met.records[peer.value] + ")";
  }
  return text;
}

void BackendPapilio::join(std::shared_ptr<engine::Group> group, Meeting met, int rank) {
  std::lock_guard lock(state_mutex_);
  rank_ = rank;
  size_ = static_cast<int>(met.records.size());
  group_ = std::move(group);
  if (lanes_) lanes_->leave();
  lanes_ = lanesFor(met, rank);
  met_ = std::move(met);
  alone_ = met_.view == ViewNumber{0};
}

void BackendPapilio::enter(Meeting met) {
  const auto timeout = timeout_.load();
  auto group = open(met, rank_, timeout);
  const auto missing = group->waitReady(timeout);
  if (missing.empty()) return join(std::move(group), std::move(met), rank_);
  group->leave();
  C10_THROW_ERROR(DistBackendError,
                  "papilio[rank " + std::to_string(rank_) + "/" + std::to_string(size_) + " " +
                      name_ + "] could not connect within " +
                      std::to_string(timeout.count() / 1000) + " s: " + describe(met, missing) +
                      "; is the address reachable from this host?");
}

// The members know each other's addresses from this group, so they agree on the new group's
// identity by computing it: from this group's, the name, the ranks, and how often that was asked
// for before.
c10::intrusive_ptr<BackendPapilio> BackendPapilio::derive(const std::string& name,
                                                          const std::vector<int>& ranks,
                                                          const c10::intrusive_ptr<Options>& opts) {
  const auto* ours = dynamic_cast<const OptionsPapilio*>(opts.get());
  const Settings& settings = ours != nullptr ? ours->settings : settings_;
  const auto timeout = opts ? opts->timeout : timeout_.load();
  Meeting met;
  std::shared_ptr<Process> process;
  int rank = 0;
  {
    std::lock_guard lock(state_mutex_);
    TORCH_CHECK_WITH(DistBackendError, process_ != nullptr && group_ != nullptr, "papilio: group ",
                     name_, " has no members of which a new group could be made");
    TORCH_CHECK_VALUE(settings.transport == process_->transport(), "papilio: transport='",
                      settings.transport, "': this process runs with '", process_->transport(),
                      "', which all its groups share");
    const std::string what = name + "|" + joinedRanks(ranks);
    met.id = GroupId{static_cast<std::uint32_t>(
        hashCombine(hashCombine(met_.id.value, hashBytes(what)), ++derived_[what]))};
    for (const int member : ranks) met.records.push_back(met_.records[member]);
    rank = static_cast<int>(std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin());
    process = process_;
  }
  auto backend = c10::make_intrusive<BackendPapilio>(process, rank, static_cast<int>(ranks.size()),
                                                     name, settings, timeout, listeners_);
  backend->enter(std::move(met));
  if (listeners_.on_group) listeners_.on_group(backend);
  return backend;
}

c10::intrusive_ptr<c10d::Backend> BackendPapilio::split(
    const c10::intrusive_ptr<c10d::Store>& /*store*/, const std::vector<int>& ranks,
    const c10::intrusive_ptr<Options>& opts) {
  const auto unlocked = releaseInterpreter();
  requireOwnProcess("split_group");
  requireMembers(ranks, size_, "split_group");
  if (std::find(ranks.begin(), ranks.end(), rank_) == ranks.end()) return nullptr;
  const bool named = opts && !opts->group_name.empty();
  return derive(named ? opts->group_name : name_ + ":split", ranks, opts);
}

c10::intrusive_ptr<c10d::Backend> BackendPapilio::shrink(const std::vector<int64_t>& excluded,
                                                         int flags,
                                                         const c10::intrusive_ptr<Options>& opts) {
  const auto unlocked = releaseInterpreter();
  requireOwnProcess("shrink_group");
  std::vector<int> ranks;
  for (int rank = 0; rank < size_; ++rank) {
    if (std::find(excluded.begin(), excluded.end(), rank) == excluded.end()) ranks.push_back(rank);
  }
  TORCH_CHECK_VALUE(ranks.size() + excluded.size() == static_cast<std::size_t>(size_),
                    "papilio: shrink_group excludes ranks that this group of ", size_,
                    " does not have, or one of them twice");
  TORCH_CHECK_VALUE(std::find(ranks.begin(), ranks.end(), rank_) != ranks.end(),
                    "papilio: shrink_group is for the ranks that stay, and rank ", rank_,
                    " is excluded");
  if ((flags & kShrinkAborts) != 0) abort();
  return derive(name_ + ":shrink", ranks, opts);
}

c10::intrusive_ptr<c10d::Backend> BackendPapilio::merge(
    const c10::intrusive_ptr<c10d::Store>& store, const c10::intrusive_ptr<Options>& opts,
    const int& rank, const int& size) {
  const auto unlocked = releaseInterpreter();
  requireOwnProcess("merge_remote_group");
  const auto* ours = dynamic_cast<const OptionsPapilio*>(opts.get());
  const bool named = opts && !opts->group_name.empty();
  auto backend = atStore(*store, rank, size, named ? opts->group_name : name_ + ":merge",
                         ours != nullptr ? ours->settings : settings_,
                         opts ? opts->timeout : timeout_.load(), listeners_, false, false);
  if (listeners_.on_group) listeners_.on_group(backend);
  return backend;
}

}  // namespace papilio::pg
