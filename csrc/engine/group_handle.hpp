// A group as other threads see it: numbers collectives, posts them, waits with a limit.
#pragma once

#include <memory>

#include "engine/engine.hpp"
#include "engine/engine_core.hpp"

namespace papilio::engine {

class GroupHandle final : public Group {
 public:
  GroupHandle(std::shared_ptr<EngineCore> engine, GroupId id, Duration timeout,
              std::shared_ptr<GroupShared> shared);
  ~GroupHandle() override;

  std::map<Rank, std::string> waitReady(Duration limit) override;
  Seq submit(AllreduceRequest request, std::optional<Duration> timeout, DoneFn done) override;
  Seq submit(StrictRequest request, std::optional<Duration> timeout, DoneFn done) override;
  Seq submit(MessageRequest request, std::optional<Duration> timeout, DoneFn done) override;
  void drive(const std::function<bool()>& done, Duration limit) override;
  void combined(Seq seq, fault::HostShare share) override;
  void cancel(Seq seq, fault::ErrorKind kind, const std::string& text) override;
  void abort(const std::string& why) override;
  void leave() override;
  void retire() override;
  bool aborted() const override;
  Boundary boundary() override;
  void want(const Joiner& joiner) override;
  void giveUpOn(const ContributorSet& ranks, const std::string& why) override;
  std::vector<PeerInfo> peers() override;
  std::vector<BlacklistInfo> blacklist() override;
  void ban(Rank rank, const std::string& reason, std::optional<Duration> term) override;
  void unban(Rank rank) override;
  std::vector<fault::Report> reports(std::size_t last) override;
  std::optional<fault::Report> report(Seq seq) override;
  void correct(const fault::Report& report) override;
  StatsMap stats() override;

 private:
  template <class Request, class Start>
  Seq enqueue(Seq& last, Request request, std::optional<Duration> timeout, DoneFn done,
              Start start);
  // Asks the progress thread; an empty answer when the group or the engine is gone.
  template <class Answer>
  Answer ask(std::function<Answer(EngineCore&, GroupRuntime&)> question);
  // Runs `action` with the group on the progress thread, if both still exist.
  void withGroup(std::function<void(GroupRuntime&)> action);

  std::shared_ptr<EngineCore> engine_;
  GroupId id_;
  Duration timeout_;
  std::shared_ptr<GroupShared> shared_;
  std::mutex order_;  // sequence numbers and commands in the same order
  Seq last_;
  Seq last_message_{kMessageNumbers};
};

}  // namespace papilio::engine
