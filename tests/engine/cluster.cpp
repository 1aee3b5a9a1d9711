#include "engine/cluster.hpp"

#include <stdexcept>

namespace papilio::engine::testing {

fault::GroupOptions patient() {
  fault::GroupOptions out;
  out.patience = 120s;
  return out;
}

fault::GroupOptions hasty(Duration patience) {
  fault::GroupOptions out;
  out.patience = patience;
  return out;
}

RoundShape tolerant(std::uint64_t numel, DType dtype, ReduceOp op, double premul) {
  RoundShape out;
  out.numel = numel;
  out.dtype = dtype;
  out.op = op;
  out.premul = premul;
  return out;
}

Cluster::Cluster(std::uint32_t n, fault::GroupOptions options)
    : Cluster(n, [=](std::uint32_t) { return options; }) {}

Cluster::Cluster(std::uint32_t n,
                 const std::function<fault::GroupOptions(std::uint32_t)>& options) {
  for (std::uint32_t i = 0; i < n; ++i) {
    lines_.push_back(std::make_shared<Lines>());
    EngineConfig config;
    config.lanes = network.lanes();
    config.versions = "test";
    config.log = [lines = lines_.back()](LogLevel, const std::string& line) {
      std::lock_guard lock(lines->mutex);
      lines->text.push_back(line);
    };
    engines.push_back(Engine::start(std::move(config)));
  }
  std::vector<std::size_t> nodes(n);
  for (std::uint32_t i = 0; i < n; ++i) nodes[i] = i;
  for (std::uint32_t i = 0; i < n; ++i) {
    auto config = configFor(1, i, nodes);
    config.options = options(i);
    groups.push_back(engines[i]->createGroup(std::move(config)));
  }
  for (auto& group : groups) {
    if (!group->waitReady(kPatience).empty()) throw std::runtime_error("the group is not ready");
  }
}

Cluster::~Cluster() {
  for (std::size_t i = 0; i < engines.size(); ++i) network.thaw(i);
  groups.clear();
  for (auto& engine : engines) engine->shutdown();
}

GroupConfig Cluster::configFor(std::uint32_t id, std::uint32_t rank,
                               const std::vector<std::size_t>& nodes) const {
  GroupConfig out;
  out.name = "group " + std::to_string(id);
  out.id = GroupId{id};
  out.rank = Rank{rank};
  out.size = static_cast<std::uint32_t>(nodes.size());
  for (const auto node : nodes) out.records.push_back(engines[node]->localRecord());
  return out;
}

std::vector<std::shared_ptr<Group>> Cluster::addGroup(std::uint32_t id,
                                                      const std::vector<std::size_t>& nodes,
                                                      fault::GroupOptions options) {
  std::vector<std::shared_ptr<Group>> out;
  for (std::uint32_t rank = 0; rank < nodes.size(); ++rank) {
    auto config = configFor(id, rank, nodes);
    config.options = options;
    out.push_back(engines[nodes[rank]]->createGroup(std::move(config)));
  }
  for (auto& group : out) {
    if (!group->waitReady(kPatience).empty()) throw std::runtime_error("the group is not ready");
  }
  return out;
}

double Cluster::stat(std::size_t node, const std::string& name) const {
  const auto stats = engines[node]->stats();
  const auto it = stats.find(name);
  return it == stats.end() ? 0 : it->second;
}

double Cluster::groupStat(std::size_t node, const std::string& name) const {
  return groups[node]->stats().at(name);
}

std::vector<std::string> Cluster::log(std::size_t node) const {
  std::lock_guard lock(lines_[node]->mutex);
  return lines_[node]->text;
}

Pending allreduce(Group& group, void* data, const RoundShape& shape,
                  std::optional<Duration> timeout) {
  auto promise = std::make_shared<std::promise<Completion>>();
  auto future = promise->get_future();
  group.submit(AllreduceRequest{data, shape}, timeout,
               [promise](const Completion& completion) { promise->set_value(completion); });
  return future;
}

Pending strict(Group& group, StrictRequest request, std::optional<Duration> timeout) {
  auto promise = std::make_shared<std::promise<Completion>>();
  auto future = promise->get_future();
  group.submit(std::move(request), timeout,
               [promise](const Completion& completion) { promise->set_value(completion); });
  return future;
}

Completion get(Pending& pending, std::chrono::milliseconds limit) {
  if (pending.wait_for(limit) != std::future_status::ready) {
    throw std::runtime_error("the collective did not end");
  }
  return pending.get();
}

bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

namespace {
RoundShape strictShape(OpKind kind, std::uint64_t bytes) {
  RoundShape out;
  out.kind = kind;
  out.dtype = DType::uint8;
  out.strict = true;
  out.numel = bytes;
  return out;
}
}  // namespace

StrictRequest allgatherRequest(std::uint32_t n, std::vector<std::byte>& mine,
                               std::vector<std::vector<std::byte>>& theirs) {
  StrictRequest out;
  out.shape = strictShape(OpKind::allgather, mine.size());
  out.needs_all = true;
  out.nbytes = mine.size() * n;
  theirs.resize(n);
  StrictPhase phase;
  for (std::uint32_t r = 0; r < n; ++r) {
    theirs[r].resize(mine.size());
    phase.pieces.push_back({mine.data(), mine.size(), theirs[r].data(), mine.size()});
  }
  out.phases.push_back(std::move(phase));
  return out;
}

StrictRequest broadcastRequest(std::uint32_t n, std::uint32_t me, std::uint32_t root,
                               std::vector<std::byte>& data) {
  StrictRequest out;
  out.shape = strictShape(OpKind::broadcast, data.size());
  out.shape.root = root;
  out.needed.insert(Rank{root});
  out.nbytes = data.size();
  StrictPhase phase;
  for (std::uint32_t r = 0; r < n; ++r) {
    StrictPhase::Piece piece;
    if (me == root && r != me) piece = {data.data(), data.size(), nullptr, 0};
    if (r == root && r != me) piece = {nullptr, 0, data.data(), data.size()};
    phase.pieces.push_back(piece);
  }
  out.phases.push_back(std::move(phase));
  return out;
}

}  // namespace papilio::engine::testing
