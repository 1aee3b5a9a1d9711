// Several engines on one fake network, one group over all of them, and waiting with deadlines.
#pragma once

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.hpp"
#include "engine/fake_network.hpp"

namespace papilio::engine::testing {

inline constexpr std::chrono::seconds kPatience{60};  // a failing wait ends here

// Options for tests whose peers are healthy: nothing may be taken for slow on a loaded machine.
fault::GroupOptions patient();
// Options for tests that wait for a member to be given up on.
fault::GroupOptions hasty(Duration patience = 300ms);

RoundShape tolerant(std::uint64_t numel, DType dtype = DType::float32, ReduceOp op = ReduceOp::avg,
                    double premul = 1.0);

class Cluster {
 public:
  explicit Cluster(std::uint32_t n, fault::GroupOptions options = patient());
  Cluster(std::uint32_t n, const std::function<fault::GroupOptions(std::uint32_t)>& options);
  ~Cluster();

  FakeNetwork network;
  // Memory of collectives that a test does not wait for (those of a killed rank): it lives until
  // the engines have ended.
  std::vector<std::shared_ptr<void>> kept;
  std::vector<std::shared_ptr<Engine>> engines;
  std::vector<std::shared_ptr<Group>> groups;

  std::uint32_t size() const { return static_cast<std::uint32_t>(engines.size()); }
  // One more group over the given nodes, by their order; every member ready.
  std::vector<std::shared_ptr<Group>> addGroup(std::uint32_t id,
                                               const std::vector<std::size_t>& nodes,
                                               fault::GroupOptions options = patient());
  GroupConfig configFor(std::uint32_t id, std::uint32_t rank,
                        const std::vector<std::size_t>& nodes) const;
  double stat(std::size_t node, const std::string& name) const;
  double groupStat(std::size_t node, const std::string& name) const;
  std::vector<std::string> log(std::size_t node) const;

 private:
  struct Lines {
    std::mutex mutex;
    std::vector<std::string> text;
  };
  std::vector<std::shared_ptr<Lines>> lines_;
};

using Pending = std::future<Completion>;

// `data` must live until the future is ready.
Pending allreduce(Group& group, void* data, const RoundShape& shape,
                  std::optional<Duration> timeout = std::nullopt);
template <class T>
Pending allreduce(Group& group, std::vector<T>& data, const RoundShape& shape) {
  return allreduce(group, data.data(), shape);
}
Pending strict(Group& group, StrictRequest request, std::optional<Duration> timeout = std::nullopt);
// Throws std::runtime_error when nothing came.
Completion get(Pending& pending, std::chrono::milliseconds limit = kPatience);
// Asks again and again, no faster than the answers come.
bool eventually(const std::function<bool()>& condition,
                std::chrono::milliseconds limit = kPatience);

// Everybody sends `mine` to everybody; what came lies in `theirs`, by rank.
StrictRequest allgatherRequest(std::uint32_t n, std::vector<std::byte>& mine,
                               std::vector<std::vector<std::byte>>& theirs);
StrictRequest broadcastRequest(std::uint32_t n, std::uint32_t me, std::uint32_t root,
                               std::vector<std::byte>& data);

}  // namespace papilio::engine::testing
