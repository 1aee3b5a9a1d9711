// Groups of the engine: creation, readiness, leaving.
#include <algorithm>
#include <stdexcept>

#include "engine/engine_core.hpp"
#include "engine/group_handle.hpp"

namespace papilio::engine {

std::shared_ptr<Group> EngineCore::createGroup(GroupConfig config) {
  if (config.size == 0 || config.size > kMaxRanks || config.rank.value >= config.size ||
      config.records.size() != config.size) {
    throw std::invalid_argument(
        "group of " + std::to_string(config.size) + " ranks, rank " +
        std::to_string(config.rank.value) + ", " + std::to_string(config.records.size()) +
        " address records: sizes must agree and be at most " + std::to_string(kMaxRanks));
  }
  {
    std::lock_guard lock(command_mutex_);
    if (!group_ids_.insert(config.id).second) {
      throw std::invalid_argument("a group with the identity of '" + config.name +
                                  "' exists in this process already; destroy it first");
    }
  }
  auto shared = std::make_shared<GroupShared>();
  for (std::uint32_t r = 0; r < config.size; ++r) {
    if (r == config.rank.value || config.absent.contains(Rank{r})) continue;
    shared->not_ready[Rank{r}] = "no connection yet";
  }
  auto handle =
      std::make_shared<GroupHandle>(shared_from_this(), config.id, config.options.timeout, shared);
  if (!post([this, config = std::move(config), shared]() mutable {
        addGroup(std::move(config), shared);
      })) {
    throw std::runtime_error("the engine of this process has been shut down");
  }
  return handle;
}

PeerId EngineCore::peerFor(const std::string& record) {
  const auto [it, fresh] =
      peer_by_record_.try_emplace(record, PeerId{static_cast<std::uint32_t>(peers_.size())});
  if (!fresh) return it->second;
  PeerLink& peer = peers_.emplace_back();
  peer.id = it->second;
  peer.record = record;
  try {
    control_->connect(peer.id, record, kConnectLimit);
  } catch (const std::exception& error) {
    lost(peer, fault::Reason::unreachable, error.what());
  }
  return peer.id;
}

void EngineCore::addGroup(GroupConfig config, std::shared_ptr<GroupShared> shared) {
  const GroupId id = config.id;
  std::vector<PeerId> peers(config.size, kNoPeer);
  for (std::uint32_t r = 0; r < config.size; ++r) {
    if (r == config.rank.value || config.absent.contains(Rank{r})) continue;
    peers[r] = peerFor(config.records[r]);
  }
  GroupHost& host = *this;
  auto runtime =
      std::make_unique<GroupRuntime>(host, std::move(config), peers, incarnation_, shared);
  GroupRuntime& group = *runtime;
  groups_[id] = {std::move(runtime), shared};
  for (std::uint32_t r = 0; r < peers.size(); ++r) {
    if (peers[r] == kNoPeer) continue;
    PeerLink& peer = peers_[peers[r].value];
    peer.groups.emplace_back(&group, Rank{r});
    if (peer.state == PeerLink::State::down) {
      group.gone(Rank{r}, peer.down_reason, peer.down_detail);
    } else if (peer.state == PeerLink::State::up) {
      announce(group, peer);
    }
  }
  const auto pending = pending_joins_.find(id);
  if (pending == pending_joins_.end()) return;
  const auto joins = std::move(pending->second);
  pending_joins_.erase(pending);
  for (const auto& [peer, join] : joins) {
    --peers_[peer.value].early_joins;
    gotJoin(peers_[peer.value], id, join);
  }
}

void EngineCore::announce(GroupRuntime& group, PeerLink& peer) {
  const auto& config = group.config();
  sendControl(peer.id, ControlMessage{config.id, msg::Join{config.rank, config.size}});
}

void EngineCore::gotJoin(PeerLink& peer, GroupId id, const msg::Join& join) {
  GroupRuntime* found = group(id);
  if (found == nullptr) {
    if (peer.state == PeerLink::State::down || peer.early_joins >= kMaxEarlyJoins) return;
    if (pending_joins_[id].insert_or_assign(peer.id, join).second) ++peer.early_joins;
    return;
  }
  const auto rank = found->rankOf(peer.id);
  if (!rank || *rank != join.rank || join.size != found->config().size) {
    count("rejected.join");
    return;
  }
  if (found->machine().members().at(*rank).link == fault::Member::Link::gone) {
    // It comes too late: the others have given it up, and it must not wait for them.
    sendControl(peer.id, ControlMessage{id, msg::Leave{}});
    return;
  }
  found->joined(*rank, peer.hello.incarnation);
}

void EngineCore::meet(const std::string& record) {
  post([this, record] {
    if (record != record_) peerFor(record);
  });
}

std::pair<std::size_t, std::size_t> EngineCore::reachable(const std::vector<std::string>& records) {
  using Counts = std::pair<std::size_t, std::size_t>;
  const auto count_them = [this, records] {
    Counts out;
    for (const auto& record : records) {
      const auto known = peer_by_record_.find(record);
      if (known == peer_by_record_.end()) continue;
      const auto state = peers_[known->second.value].state;
      out.first += state == PeerLink::State::up ? 1 : 0;
      out.second += state != PeerLink::State::down ? 1 : 0;
    }
    return out;
  };
  return ask<Counts>(count_them, Counts{});
}

void EngineCore::want(GroupId id, const Joiner& joiner) {
  const GroupRuntime* asked = group(id);
  if (asked == nullptr || joiner.rank.value >= asked->config().size) return;
  const auto& config = asked->config();
  const bool is_member =
      !config.absent.contains(joiner.rank) && config.records[joiner.rank.value] == joiner.record;
  if (is_member || joiner.record == record_) return;
  const PeerLink& peer = peers_[peerFor(joiner.record).value];
  if (peer.state == PeerLink::State::down) return;
  wanted_.emplace_back(id, joiner);
  if (peer.state == PeerLink::State::up) connected(peer, true);
}

void EngineCore::connected(const PeerLink& peer, bool up) {
  for (const auto& [id, joiner] : wanted_) {
    if (joiner.record != peer.record) continue;
    if (GroupRuntime* wanted_by = group(id)) {
      if (up) wanted_by->want(joiner);
      if (!up) wanted_by->unwant(joiner);
    }
  }
  if (!up) std::erase_if(wanted_, [&](const auto& w) { return w.second.record == peer.record; });
}

GroupRuntime* EngineCore::group(GroupId id) {
  const auto it = groups_.find(id);
  return it == groups_.end() ? nullptr : it->second.runtime.get();
}

void EngineCore::leave(GroupId id, bool for_next_view) {
  const auto it = groups_.find(id);
  if (it == groups_.end()) return;
  it->second.runtime->abort("the group was destroyed");
  finishLeave(id, clock_.now() + kFlushLimit, for_next_view);
}

// Others may still wait for results that this rank reduced: they go out first, within a limit.
void EngineCore::finishLeave(GroupId id, Time deadline, bool for_next_view) {
  GroupRuntime* leaving = group(id);
  if (leaving == nullptr) return;
  bool flushed = leaving->flushed();
  for (const auto& peer : peers_) {
    if (peer.state != PeerLink::State::up || !leaving->rankOf(peer.id)) continue;
    flushed = flushed && peer.in_flight == 0;
  }
  if (!flushed && clock_.now() < deadline) {
    after(1ms, [=, this] { finishLeave(id, deadline, for_next_view); });
    return;
  }
  for (const auto& peer : peers_) {
    if (peer.state != PeerLink::State::up || !leaving->rankOf(peer.id)) continue;
    sendControl(peer.id, ControlMessage{id, msg::Leave{for_next_view}});
  }
  removeGroup(id);
}

void EngineCore::removeGroup(GroupId id) {
  const auto it = groups_.find(id);
  if (it == groups_.end()) return;
  const GroupRuntime* runtime = it->second.runtime.get();
  for (auto& peer : peers_) {
    std::erase_if(peer.groups, [&](const auto& entry) { return entry.first == runtime; });
    peer.next_group = 0;
  }
  {
    std::lock_guard lock(command_mutex_);
    group_ids_.erase(id);
  }
  {
    std::lock_guard lock(it->second.shared->mutex);
    it->second.shared->left = true;
    it->second.shared->changed.notify_all();
  }
  std::erase_if(wanted_, [&](const auto& wanted) { return wanted.first == id; });
  groups_.erase(it);
}

std::vector<PeerInfo> EngineCore::peersOf(const GroupRuntime& group) const {
  std::vector<PeerInfo> out;
  const auto& members = group.machine().members();
  for (std::uint32_t r = 0; r < group.config().size; ++r) {
    PeerInfo info;
    info.rank = Rank{r};
    info.state = members.state(Rank{r});
    if (Rank{r} == group.config().rank) {
      info.incarnation = incarnation_;
      info.lane = "self";
      info.lag = members.at(Rank{r}).lag;
      out.push_back(std::move(info));
      continue;
    }
    if (group.peerOf(Rank{r}) == kNoPeer) {
      info.lane = "none";
      info.last_seen = -1.0;
      out.push_back(std::move(info));
      continue;
    }
    const PeerLink& peer = peers_[group.peerOf(Rank{r}).value];
    info.incarnation = peer.hello.incarnation;
    info.lane = peer.lane_open ? transport_->laneName(peer.id) : "none";
    info.address = peer.hello.address;
    info.rtt = toSeconds(peer.rtt);
    info.goodput = peer.goodput.bytesPerSecond();
    info.lag = members.at(Rank{r}).lag;
    info.last_seen = peer.last_seen == Time{} ? -1.0 : toSeconds(clock_.now() - peer.last_seen);
    out.push_back(std::move(info));
  }
  return out;
}

}  // namespace papilio::engine
