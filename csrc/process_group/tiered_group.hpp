// A group whose ranks of one host combine their tensors before the round (docs/adr/0012): of what
// goes between hosts, one copy per host is left.
#pragma once

#include <memory>
#include <mutex>

#include "core/layout.hpp"
#include "engine/engine.hpp"
#include "process_group/host_combiner.hpp"
#include "process_group/host_sum.hpp"

namespace papilio::pg {

class TieredGroup final : public engine::Group {
 public:
  // `device`: what combines tensors on a device before they are submitted; may be null.
  TieredGroup(std::shared_ptr<engine::Group> whole, std::unique_ptr<HostCombiner> host,
              std::shared_ptr<HostSums> device)
      : whole_(std::move(whole)), host_(std::move(host)), device_(std::move(device)) {}

  const std::shared_ptr<HostSums>& onDevice() const { return device_; }
  static bool worthwhile(const RoundShape& shape);

  std::map<Rank, std::string> waitReady(Duration limit) override {
    return whole_->waitReady(limit);
  }
  Seq submit(engine::AllreduceRequest request, std::optional<Duration> timeout,
             engine::DoneFn done) override;
  Seq submit(engine::StrictRequest request, std::optional<Duration> timeout,
             engine::DoneFn done) override;
  Seq submit(engine::MessageRequest request, std::optional<Duration> timeout,
             engine::DoneFn done) override {
    return whole_->submit(std::move(request), timeout, std::move(done));
  }
  void drive(const std::function<bool()>& done, Duration limit) override {
    whole_->drive(done, limit);
  }
  void combined(Seq seq, fault::HostShare share) override {
    whole_->combined(seq, std::move(share));
  }
  void cancel(Seq seq, fault::ErrorKind kind, const std::string& text) override;
  // The host first: what it does with the memory is over before the whole group says that it is.
  void abort(const std::string& why) override;
  void leave() override;
  void retire() override;
  bool aborted() const override { return whole_->aborted(); }
  engine::Boundary boundary() override { return whole_->boundary(); }
  void want(const Joiner& joiner) override { whole_->want(joiner); }
  void giveUpOn(const ContributorSet& ranks, const std::string& why) override {
    whole_->giveUpOn(ranks, why);
  }
  std::vector<engine::PeerInfo> peers() override { return whole_->peers(); }
  std::vector<engine::BlacklistInfo> blacklist() override { return whole_->blacklist(); }
  void ban(Rank rank, const std::string& reason, std::optional<Duration> term) override;
  void unban(Rank rank) override;
  std::vector<fault::Report> reports(std::size_t last) override { return whole_->reports(last); }
  std::optional<fault::Report> report(Seq seq) override { return whole_->report(seq); }
  void correct(const fault::Report& report) override { whole_->correct(report); }
  engine::StatsMap stats() override;

 private:
  // Up to one chunk the second level costs more time than it saves bytes.
  static constexpr std::uint64_t kLeastBytes = Layout::kSmallBytes + 1;

  const std::shared_ptr<engine::Group> whole_;
  const std::unique_ptr<HostCombiner> host_;
  const std::shared_ptr<HostSums> device_;
  std::mutex order_;  // both number a collective in the same order
};

}  // namespace papilio::pg
