// Combines the tensors of a host's ranks by tolerant rounds of a group of their own: over shared
// memory, without whoever is dead or late.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "process_group/host_combiner.hpp"

namespace papilio::pg {

// What a round of `members`' own, by their rank in it, has combined.
fault::HostShare shareOf(const engine::Completion& done, const std::vector<Rank>& members);

class EngineCombiner final : public HostCombiner {
 public:
  // `members`: ranks of the whole group, by their rank in `group`.
  EngineCombiner(std::shared_ptr<engine::Group> group, std::vector<Rank> members);

  const std::shared_ptr<engine::Group>& group() const { return group_; }
  void combine(Seq seq, const engine::AllreduceRequest& request, std::optional<Duration> timeout,
               Then then) override;
  void cancel(Seq seq, const std::string& why) override;
  void abort(const std::string& why) override { group_->abort(why); }
  void leave() override { group_->leave(); }
  void ban(Rank rank, const std::string& reason, std::optional<Duration> term) override;
  void unban(Rank rank) override;
  engine::StatsMap stats() override { return group_->stats(); }

 private:
  std::optional<Rank> ownRankOf(Rank rank) const;

  // Which of its rounds is for which one of the whole group, while it runs.
  struct Running {
    std::mutex mutex;
    std::map<Seq, Seq> own;
    std::map<Seq, bool> over;  // it ended before its number was known
  };

  const std::shared_ptr<engine::Group> group_;
  const std::vector<Rank> members_;
  const std::shared_ptr<Running> running_ = std::make_shared<Running>();
};

}  // namespace papilio::pg
