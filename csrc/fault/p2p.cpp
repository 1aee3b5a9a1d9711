#include "fault/p2p.hpp"

#include <algorithm>

namespace papilio::fault {

namespace {

std::string bytesText(std::uint64_t bytes) { return std::to_string(bytes) + " bytes"; }

std::string rankText(Rank rank) { return "rank " + std::to_string(rank.value); }

}  // namespace

void P2p::send(p2p::Operation operation) {
  const Seq id = operation.id;
  const Rank to = *operation.peer;
  const bool crowded = unmatched(to) >= kMostUnmatched;
  sends_[id] = {operation, false};
  if (gone_[to.value] != Reason::none) {
    return fail(id, ErrorKind::peer_failed, gone_[to.value], to, rankText(to) + " is gone");
  }
  if (crowded) {
    return fail(id, ErrorKind::invalid, Reason::none, to,
                std::to_string(kMostUnmatched) + " sends to " + rankText(to) +
                    " wait for a receive already; it has to receive some first");
  }
  effects_.push_back(
      p2p::SendControl{to, msg::Offer{id, operation.tag, operation.bytes, operation.blocks}});
}

void P2p::receive(p2p::Operation operation) {
  const Seq id = operation.id;
  auto& receive = receives_[id];
  receive.operation = operation;
  if (matchOne(receive)) return;
  if (operation.peer && gone_[operation.peer->value] != Reason::none) {
    return fail(id, ErrorKind::peer_failed, gone_[operation.peer->value], operation.peer,
                rankText(*operation.peer) + " is gone and had sent nothing with this tag");
  }
  if (nobodyLeft()) {
    fail(id, ErrorKind::peer_failed, gone_[(me_.value + 1) % size_], std::nullopt,
         "no other rank is left");
  }
}

// An offer of a rank that is gone can not be fulfilled any more; peerGone() has dropped those.
bool P2p::matchOne(Receive& receive) {
  const auto& wanted = receive.operation;
  const auto it = std::find_if(offers_.begin(), offers_.end(), [&](const auto& entry) {
    return entry.second.tag == wanted.tag && (!wanted.peer || *wanted.peer == entry.first);
  });
  if (it == offers_.end()) return false;
  const auto [from, offer] = *it;
  offers_.erase(it);
  begin(receive, from, offer);
  return true;
}

void P2p::begin(Receive& receive, Rank from, const msg::Offer& offer) {
  const auto& wanted = receive.operation;
  if (offer.bytes != wanted.bytes || offer.blocks != wanted.blocks) {
    effects_.push_back(p2p::SendControl{
        from, msg::Withdraw{offer.id, true, static_cast<std::uint8_t>(Reason::schema)}});
    return fail(wanted.id, ErrorKind::schema_mismatch, Reason::schema, from,
                rankText(from) + " sends " + bytesText(offer.bytes) + ", this receive is for " +
                    bytesText(wanted.bytes));
  }
  receive.from = from;
  receive.message = offer.id;
  receive.got.assign(offer.blocks, false);
  receive.left = offer.blocks;
  effects_.push_back(p2p::SendControl{from, msg::Accept{offer.id}});
  if (receive.left == 0) finish(wanted.id, from, {});
}

void P2p::control(Rank from, const msg::Offer& offer) {
  if (gone_[from.value] != Reason::none) return;
  for (auto& [id, receive] : receives_) {
    const auto& wanted = receive.operation;
    if (receive.from || wanted.tag != offer.tag) continue;
    if (wanted.peer && *wanted.peer != from) continue;
    return begin(receive, from, offer);
  }
  const auto same = std::count_if(offers_.begin(), offers_.end(),
                                  [&](const auto& entry) { return entry.first == from; });
  // More than an honest peer announces; the sender's own limit tells its user.
  if (static_cast<std::size_t>(same) < kMostUnmatched) offers_.emplace_back(from, offer);
}

void P2p::control(Rank from, const msg::Accept& accept) {
  const auto it = sends_.find(accept.id);
  if (it == sends_.end() || it->second.accepted || *it->second.operation.peer != from) return;
  it->second.accepted = true;
  if (it->second.operation.blocks == 0) return finish(accept.id, from, {});
  effects_.push_back(p2p::SendBlocks{from, accept.id});
}

void P2p::control(Rank from, const msg::Withdraw& withdraw) {
  if (withdraw.by_receiver) {
    const auto it = sends_.find(withdraw.id);
    if (it == sends_.end() || *it->second.operation.peer != from) return;
    const bool shape = withdraw.reason == static_cast<std::uint8_t>(Reason::schema);
    return fail(withdraw.id, shape ? ErrorKind::schema_mismatch : ErrorKind::peer_failed,
                static_cast<Reason>(std::min(withdraw.reason, kReasonLast)), from,
                rankText(from) + (shape ? " receives another number of bytes than the " +
                                              bytesText(it->second.operation.bytes) + " sent"
                                        : " gave its receive up"));
  }
  std::erase_if(offers_, [&](const auto& entry) {
    return entry.first == from && entry.second.id == withdraw.id;
  });
  if (const Receive* receive = receiveOf(from, withdraw.id)) {
    fail(receive->operation.id, ErrorKind::peer_failed, Reason::none, from,
         rankText(from) + " gave up sending this message");
  }
}

void P2p::peerGone(Rank rank, Reason reason) {
  if (gone_[rank.value] != Reason::none) return;
  gone_[rank.value] = reason;
  std::erase_if(offers_, [&](const auto& entry) { return entry.first == rank; });
  std::vector<Seq> hit;
  for (const auto& [id, send] : sends_) {
    if (*send.operation.peer == rank) hit.push_back(id);
  }
  const bool alone = nobodyLeft();
  for (const auto& [id, receive] : receives_) {
    const auto source = receive.from ? receive.from : receive.operation.peer;
    if (source ? *source == rank : alone) hit.push_back(id);
  }
  for (const Seq id : hit) {
    fail(id, ErrorKind::peer_failed, reason, rank,
         rankText(rank) + " is gone (" + name(reason) + ") before this message was through");
  }
}

P2p::Receive* P2p::receiveOf(Rank from, Seq message) {
  for (auto& [id, receive] : receives_) {
    if (receive.from == from && receive.message == message) return &receive;
  }
  return nullptr;
}
const P2p::Receive* P2p::receiveOf(Rank from, Seq message) const {
  return const_cast<P2p*>(this)->receiveOf(from, message);
}

std::optional<Seq> P2p::wants(Rank from, Seq id, std::uint32_t block) const {
  const Receive* receive = receiveOf(from, id);
  if (receive == nullptr || block >= receive->got.size() || receive->got[block]) return {};
  return receive->operation.id;
}

void P2p::placed(Rank from, Seq id, std::uint32_t block) {
  Receive* receive = receiveOf(from, id);
  if (receive == nullptr || block >= receive->got.size() || receive->got[block]) return;
  receive->got[block] = true;
  if (--receive->left == 0) finish(receive->operation.id, from, {});
}

void P2p::damaged(Rank from, Seq id) {
  if (const Receive* receive = receiveOf(from, id)) {
    fail(receive->operation.id, ErrorKind::peer_failed, Reason::corrupt, from,
         "a block from " + rankText(from) + " came damaged");
  }
}

void P2p::posted(Seq id) {
  const auto it = sends_.find(id);
  if (it != sends_.end()) finish(id, *it->second.operation.peer, {});
}

void P2p::cancel(Seq id, ErrorKind kind, const std::string& text) {
  std::optional<Rank> peer;
  if (const auto send = sends_.find(id); send != sends_.end()) {
    peer = send->second.operation.peer;
  } else if (const auto receive = receives_.find(id); receive != receives_.end()) {
    peer = receive->second.from ? receive->second.from : receive->second.operation.peer;
  }
  // A receive from anybody that nobody answers accuses nobody.
  const bool late = kind == ErrorKind::deadline_exceeded && peer.has_value();
  fail(id, kind, late ? Reason::unreachable : Reason::none, peer, text);
}

void P2p::cancelAll(ErrorKind kind, const std::string& text) {
  std::vector<Seq> all;
  for (const auto& [id, send] : sends_) all.push_back(id);
  for (const auto& [id, receive] : receives_) all.push_back(id);
  for (const Seq id : all) cancel(id, kind, text);
}

void P2p::fail(Seq id, ErrorKind kind, Reason reason, std::optional<Rank> peer, std::string text) {
  // The other side must not wait for this one. A mismatch it was told before.
  if (const auto it = sends_.find(id); it != sends_.end()) {
    const Rank to = *it->second.operation.peer;
    if (kind != ErrorKind::schema_mismatch && kind != ErrorKind::invalid) {
      effects_.push_back(p2p::SendControl{to, msg::Withdraw{id, false, 0}});
    }
  } else if (const auto in = receives_.find(id); in != receives_.end() && in->second.from) {
    effects_.push_back(
        p2p::SendControl{*in->second.from, msg::Withdraw{in->second.message, true, 0}});
  }
  RoundError error;
  error.kind = kind;
  error.reason = reason;
  error.text = std::move(text);
  if (peer) error.ranks.insert(*peer);
  if (!peer && nobodyLeft()) {
    error.ranks = ContributorSet::firstN(size_);
    error.ranks.erase(me_);
  }
  finish(id, peer.value_or(me_), std::move(error));
}

void P2p::finish(Seq id, Rank peer, RoundError error) {
  if (sends_.erase(id) + receives_.erase(id) == 0) return;
  effects_.push_back(p2p::Finish{id, peer, std::move(error)});
}

void P2p::tick(Time now) {
  std::vector<Seq> late;
  for (const auto& [id, send] : sends_) {
    if (send.operation.deadline <= now) late.push_back(id);
  }
  for (const auto& [id, receive] : receives_) {
    if (receive.operation.deadline <= now) late.push_back(id);
  }
  for (const Seq id : late) {
    const bool sends = sends_.contains(id);
    cancel(id, ErrorKind::deadline_exceeded,
           sends ? "timed out: the other side does not receive it"
                 : "timed out: nothing came with this tag");
  }
}

Time P2p::nextDeadline() const {
  Time next = kNever;
  for (const auto& [id, send] : sends_) next = std::min(next, send.operation.deadline);
  for (const auto& [id, receive] : receives_) next = std::min(next, receive.operation.deadline);
  return next;
}

bool P2p::nobodyLeft() const {
  for (std::uint32_t r = 0; r < size_; ++r) {
    if (Rank{r} != me_ && gone_[r] == Reason::none) return false;
  }
  return true;
}

std::size_t P2p::unmatched(Rank to) const {
  std::size_t count = 0;
  for (const auto& [id, send] : sends_) {
    if (!send.accepted && *send.operation.peer == to) ++count;
  }
  return count;
}

}  // namespace papilio::fault
