// Options.hierarchy: who shares a host, and what combines their data (docs/adr/0012).
#include <algorithm>
#include <limits>
#include <sstream>

#include "control/control_plane.hpp"
#include "core/dtype.hpp"
#include "core/hash.hpp"
#include "process_group/backend.hpp"
#include "process_group/engine_combiner.hpp"
#include "process_group/host_backend.hpp"
#include "process_group/lane_sums.hpp"
#include "process_group/tiered_group.hpp"

namespace papilio::pg {

namespace {

constexpr const char* kOwnLane = "papilio";  // Options.host_backend: not a backend of torch's

// A number per rank; equal ones share a host. Who is not there has one of its own.
std::vector<std::uint32_t> hostsOf(const Meeting& met) {
  std::map<std::uint64_t, std::uint32_t> numbers;
  std::vector<std::uint32_t> out;
  for (std::uint32_t r = 0; r < met.records.size(); ++r) {
    const bool absent = met.absent.contains(Rank{r});
    const auto next = static_cast<std::uint32_t>(numbers.size());
    out.push_back(absent ? std::numeric_limits<std::uint32_t>::max() - r
                         : numbers.emplace(control::hostOf(met.records[r]), next).first->second);
  }
  return out;
}

// What a host makes has to be there before anybody takes its leader for late.
fault::GroupOptions hostOptions(const fault::GroupOptions& whole) {
  fault::GroupOptions out = whole;
  out.of_host = true;
  out.patience = whole.patience / 2;
  out.arrival_floor = std::min<Duration>(fault::GroupOptions{}.arrival_floor, out.patience);
  out.fallback = fault::Fallback::local;
  out.min_peers = 1;
  // Whom it waits for in the round of all, and why it came late to this one, this group can not
  // know: it waits for nobody twice, but accuses nobody.
  out.slow_strikes = std::numeric_limits<std::uint32_t>::max();
  return out;
}

}  // namespace

std::shared_ptr<HostSums> BackendPapilio::hostBackendFor(const engine::GroupConfig& host,
                                                         const std::vector<Rank>& members) const {
  if (settings_.host_backend.empty() || settings_.host_backend == kOwnLane ||
      !listeners_.make_host_backend) {
    return nullptr;
  }
  std::uint64_t key = host.id.value;
  for (const auto& record : host.records) key = hashCombine(key, hashBytes(record));
  std::ostringstream name;  // of a place where the members meet
  name << std::hex << key;
  HostBackend::Config config;
  config.name = settings_.host_backend;
  config.members = members;
  config.me = members[host.rank.value];
  config.weight = settings_.group.weight;
  config.fingerprint = host.options.fingerprint;
  config.limit = std::chrono::duration_cast<Millis>(host.options.patience);
  return std::make_shared<HostBackend>(
      std::move(config),
      [make = listeners_.make_host_backend, kind = settings_.host_backend, key = name.str(),
       rank = static_cast<int>(host.rank.value),
       size = static_cast<int>(host.size)] { return make(kind, key, rank, size); });
}

std::shared_ptr<DeviceLanes> BackendPapilio::lanesFor(const Meeting& met, int rank) const {
  if (settings_.host_backend != kOwnLane || met.view == ViewNumber{0}) return nullptr;
  const auto hosts = hostsOf(met);
  for (std::uint32_t r = 0; r < hosts.size(); ++r) {
    if (!met.absent.contains(Rank{r}) && hosts[r] != hosts[static_cast<std::size_t>(rank)]) {
      return nullptr;
    }
  }
  if (hosts.size() > kMaxReferences) return nullptr;
  return lanesOf(Rank{static_cast<std::uint32_t>(rank)});
}

std::shared_ptr<DeviceLanes> BackendPapilio::lanesOf(Rank me) const {
  return std::make_shared<DeviceLanes>(
      me, settings_.group.weight, std::chrono::duration_cast<Millis>(settings_.group.patience));
}

// By what all ranks know alike: they have to decide alike.
std::optional<LaneIssue> BackendPapilio::laneIssue(const at::Tensor& tensor,
                                                   const RoundShape& shape) const {
  const auto bytes = shape.numel * elementSize(shape.dtype);
  if (tensor.device().is_cpu() || !tolerant(shape) || !TieredGroup::worthwhile(shape) ||
      bytes > LaneIssue::kMostBytes) {
    return std::nullopt;
  }
  LaneIssue out;
  std::shared_ptr<DeviceLanes> lanes;
  {
    std::lock_guard lock(state_mutex_);
    lanes = lanes_;
    out.me = Rank{static_cast<std::uint32_t>(rank_)};
    out.size = static_cast<std::uint32_t>(size_);
  }
  if (!lanes) return std::nullopt;
  out.lane = lanes->on(tensor.device());
  out.tensor = tensor.detach();
  out.shape = shape;
  out.zero = settings_.group.fallback == fault::Fallback::zero;
  return out;
}

std::optional<SumIssue> BackendPapilio::sumIssue(const Staged& staged,
                                                 const RoundShape& shape) const {
  const auto bytes = shape.numel * elementSize(shape.dtype);
  if (!staged.device() || !TieredGroup::worthwhile(shape)) return std::nullopt;
  std::lock_guard lock(state_mutex_);
  const auto* tiers = dynamic_cast<const TieredGroup*>(group_.get());
  if (tiers == nullptr || !tiers->onDevice()) return std::nullopt;
  if (settings_.host_backend == kOwnLane && bytes > LaneIssue::kMostBytes) return std::nullopt;
  return SumIssue{tiers->onDevice(), shape};
}

BackendPapilio::Tiers BackendPapilio::tiersFor(Process& process, const Meeting& met,
                                               engine::GroupConfig& whole) const {
  if (settings_.hierarchy != "host" || met.view == ViewNumber{0}) return {};
  const auto hosts = hostsOf(met);
  const auto mine = hosts[whole.rank.value];
  std::vector<Rank> members;
  bool others = false;
  bool shared = false;
  for (std::uint32_t r = 0; r < hosts.size(); ++r) {
    if (met.absent.contains(Rank{r})) continue;
    if (hosts[r] == mine) members.push_back(Rank{r});
    others = others || hosts[r] != mine;
    shared = shared || std::count(hosts.begin(), hosts.end(), hosts[r]) > 1;
  }
  if (!others || !shared) return {};  // the flat schedule is as good
  whole.hosts = hosts;
  whole.options.arrival_floor =
      std::max<Duration>(whole.options.arrival_floor, whole.options.patience * 3 / 4);
  if (members.size() < 2) return {};
  engine::GroupConfig config;
  config.name = whole.name + ":host";
  config.id = GroupId{static_cast<std::uint32_t>(
      hashCombine(hashCombine(whole.id.value, hashBytes("host")), members.front().value))};
  config.size = static_cast<std::uint32_t>(members.size());
  for (const Rank member : members) config.records.push_back(whole.records[member.value]);
  config.rank = Rank{static_cast<std::uint32_t>(
      std::find(members.begin(), members.end(), whole.rank) - members.begin())};
  config.options = hostOptions(whole.options);
  config.report_history = 1;
  auto device = hostBackendFor(config, members);
  const auto me = config.rank;
  auto group = process.engine().createGroup(std::move(config));
  if (settings_.host_backend == kOwnLane && members.size() <= kMaxReferences) {
    device = std::make_shared<LaneSums>(group, members, lanesOf(me));
  }
  return {std::make_unique<EngineCombiner>(std::move(group), std::move(members)),
          std::move(device)};
}

}  // namespace papilio::pg
