#include "engine/group_handle.hpp"

#include <algorithm>
#include <utility>

namespace papilio::engine {

namespace {

void endAborted(Seq seq, const RoundShape& shape, const DoneFn& done, const char* why) {
  Completion completion;
  completion.seq = seq;
  completion.report.seq = seq;
  completion.report.shape = shape;
  completion.report.outcome = fault::Outcome::local;
  completion.error.kind = fault::ErrorKind::aborted;
  completion.error.text = why;
  if (done) done(completion);
}

}  // namespace

GroupHandle::GroupHandle(std::shared_ptr<EngineCore> engine, GroupId id, Duration timeout,
                         std::shared_ptr<GroupShared> shared)
    : engine_(std::move(engine)), id_(id), timeout_(timeout), shared_(std::move(shared)) {}

GroupHandle::~GroupHandle() {
  engine_->post([engine = engine_.get(), id = id_] { engine->leave(id); });
}

std::map<Rank, std::string> GroupHandle::waitReady(Duration limit) {
  std::unique_lock lock(shared_->mutex);
  shared_->changed.wait_for(lock, limit, [&] {
    return shared_->not_ready.empty() || !shared_->refused.empty() || shared_->aborted ||
           shared_->left;
  });
  auto out = shared_->refused;  // says more than "no connection yet"
  out.insert(shared_->not_ready.begin(), shared_->not_ready.end());
  return out;
}

template <class Request, class Start>
Seq GroupHandle::enqueue(Seq& last, Request request, std::optional<Duration> timeout, DoneFn done,
                         Start start) {
  const auto issued = GroupRuntime::Clock::now();
  const Duration limit = timeout.value_or(timeout_);
  const RoundShape shape = request.shape;
  const bool urgent = !request.awaited;
  const char* refused = nullptr;
  Seq seq;
  {
    std::lock_guard lock(order_);
    seq = Seq{++last.value};
    auto command = [engine = engine_.get(), shared = shared_, id = id_, seq, limit, issued, start,
                    request = std::move(request), done]() mutable {
      GroupRuntime* group = engine->group(id);
      bool over = group == nullptr;
      {
        std::lock_guard guard(shared->mutex);
        over = over || shared->aborted;
      }
      if (over) {
        endAborted(seq, request.shape, done, "the group was aborted or destroyed");
      } else {
        start(*group, seq, std::move(request), limit, issued, std::move(done));
      }
    };
    if (aborted()) {
      refused = "the group was aborted or destroyed";
    } else if (!engine_->post(std::move(command), urgent)) {
      refused = "the engine was shut down";
    }
  }
  // Without the lock: it may submit again.
  if (refused != nullptr) endAborted(seq, shape, done, refused);
  return seq;
}

Seq GroupHandle::submit(AllreduceRequest request, std::optional<Duration> timeout, DoneFn done) {
  return enqueue(last_, std::move(request), timeout, std::move(done),
                 [](GroupRuntime& group, Seq seq, AllreduceRequest r, Duration limit,
                    GroupRuntime::Clock::time_point issued,
                    DoneFn d) { group.allreduce(seq, r, limit, issued, std::move(d)); });
}

Seq GroupHandle::submit(StrictRequest request, std::optional<Duration> timeout, DoneFn done) {
  return enqueue(last_, std::move(request), timeout, std::move(done),
                 [](GroupRuntime& group, Seq seq, StrictRequest r, Duration limit,
                    GroupRuntime::Clock::time_point issued,
                    DoneFn d) { group.strict(seq, std::move(r), limit, issued, std::move(d)); });
}

Seq GroupHandle::submit(MessageRequest request, std::optional<Duration> timeout, DoneFn done) {
  return enqueue(last_message_, std::move(request), timeout, std::move(done),
                 [](GroupRuntime& group, Seq id, const MessageRequest& r, Duration limit,
                    GroupRuntime::Clock::time_point issued,
                    DoneFn d) { group.exchange(id, r, limit, issued, std::move(d)); });
}

void GroupHandle::withGroup(std::function<void(GroupRuntime&)> action) {
  engine_->post([engine = engine_.get(), id = id_, action = std::move(action)] {
    if (GroupRuntime* group = engine->group(id)) action(*group);
  });
}

void GroupHandle::drive(const std::function<bool()>& done, Duration limit) {
  engine_->drive(done, limit);
}

void GroupHandle::combined(Seq seq, fault::HostShare share) {
  withGroup([seq, share = std::move(share)](GroupRuntime& group) { group.combined(seq, share); });
}

void GroupHandle::cancel(Seq seq, fault::ErrorKind kind, const std::string& text) {
  withGroup([=](GroupRuntime& group) { group.cancel(seq, kind, text); });
}

void GroupHandle::abort(const std::string& why) {
  {
    std::lock_guard lock(shared_->mutex);
    shared_->aborted = true;
    shared_->changed.notify_all();
  }
  withGroup([=](GroupRuntime& group) { group.abort(why); });
}

void GroupHandle::leave() {
  {
    std::lock_guard lock(shared_->mutex);
    if (shared_->left) return;
    shared_->aborted = true;
  }
  if (!engine_->post([engine = engine_.get(), id = id_] { engine->leave(id); })) return;
  std::unique_lock lock(shared_->mutex);
  shared_->changed.wait_for(lock, std::chrono::milliseconds(1500), [&] { return shared_->left; });
}

void GroupHandle::retire() {
  {
    std::lock_guard lock(shared_->mutex);
    if (std::exchange(shared_->aborted, true)) return;
  }
  engine_->post([engine = engine_.get(), id = id_] { engine->leave(id, true); });
}

bool GroupHandle::aborted() const {
  std::lock_guard lock(shared_->mutex);
  return shared_->aborted || shared_->left;
}

Boundary GroupHandle::boundary() {
  Boundary ended{Boundary::Kind::ended, {}, {}};
  const auto step = ++shared_->boundaries;  // before the look at `asks`: see changeView()
  if (!shared_->asks) return {};
  const auto answer = std::make_shared<std::promise<Boundary>>();
  auto future = answer->get_future();
  const bool posted = engine_->post([this, engine = engine_.get(), id = id_, step, answer, ended] {
    GroupRuntime* group = engine->group(id);
    // abort() ends only the wait that it finds.
    if (group == nullptr || aborted()) return answer->set_value(ended);
    group->boundary(step, [answer](const Boundary& boundary) { answer->set_value(boundary); });
  });
  if (!posted) return ended;
  try {
    return future.get();  // the machine's clock ends it, or the end of the engine
  } catch (const std::future_error&) {
    return ended;
  }
}

void GroupHandle::want(const Joiner& joiner) {
  engine_->post([engine = engine_.get(), id = id_, joiner] { engine->want(id, joiner); });
}

void GroupHandle::giveUpOn(const ContributorSet& ranks, const std::string& why) {
  ask<bool>([=](EngineCore&, GroupRuntime& group) {
    ranks.forEach([&](Rank rank) { group.gone(rank, fault::Reason::unreachable, why); });
    return true;
  });
}

template <class Answer>
Answer GroupHandle::ask(std::function<Answer(EngineCore&, GroupRuntime&)> question) {
  return engine_->ask<Answer>(
      [engine = engine_.get(), id = id_, question = std::move(question)] {
        GroupRuntime* group = engine->group(id);
        return group != nullptr ? question(*engine, *group) : Answer{};
      },
      {});
}

std::vector<PeerInfo> GroupHandle::peers() {
  return ask<std::vector<PeerInfo>>(
      [](EngineCore& engine, GroupRuntime& group) { return engine.peersOf(group); });
}

std::vector<BlacklistInfo> GroupHandle::blacklist() {
  return ask<std::vector<BlacklistInfo>>(
      [](EngineCore&, GroupRuntime& group) { return group.blacklist(); });
}

// Both wait, so that the next collective already sees the change.
void GroupHandle::ban(Rank rank, const std::string& reason, std::optional<Duration> term) {
  ask<bool>([=](EngineCore&, GroupRuntime& group) {
    group.ban(rank, term, reason);
    return true;
  });
}

void GroupHandle::unban(Rank rank) {
  ask<bool>([=](EngineCore&, GroupRuntime& group) {
    group.unban(rank);
    return true;
  });
}

std::vector<fault::Report> GroupHandle::reports(std::size_t last) {
  std::lock_guard lock(shared_->mutex);
  const auto count = std::min(last, shared_->reports.size());
  return {shared_->reports.end() - static_cast<std::ptrdiff_t>(count), shared_->reports.end()};
}

std::optional<fault::Report> GroupHandle::report(Seq seq) {
  std::lock_guard lock(shared_->mutex);
  const auto it = std::find_if(shared_->reports.rbegin(), shared_->reports.rend(),
                               [&](const auto& report) { return report.seq == seq; });
  if (it == shared_->reports.rend()) return std::nullopt;
  return *it;
}

void GroupHandle::correct(const fault::Report& report) {
  std::lock_guard lock(shared_->mutex);
  const auto it = std::find_if(shared_->reports.rbegin(), shared_->reports.rend(),
                               [&](const auto& kept) { return kept.seq == report.seq; });
  if (it != shared_->reports.rend()) *it = report;
}

StatsMap GroupHandle::stats() {
  return ask<StatsMap>([](EngineCore&, GroupRuntime& group) { return group.stats(); });
}

}  // namespace papilio::engine
