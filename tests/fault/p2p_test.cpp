// Point-to-point messages: matched by peer and tag in order, never stored, and ended by an error
// that names the other side when it can not be.
#include "fault/p2p.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <tuple>

namespace papilio::fault {
namespace {

using namespace std::chrono_literals;

constexpr Time kNow{100s};

p2p::Operation operation(std::uint64_t id, std::optional<std::uint32_t> peer, std::int32_t tag,
                         std::uint64_t bytes = 8) {
  p2p::Operation out;
  out.id = Seq{id};
  if (peer) out.peer = Rank{*peer};
  out.tag = tag;
  out.bytes = bytes;
  out.blocks = bytes == 0 ? 0 : 1;
  out.deadline = kNow + 10s;
  return out;
}

// Some ranks whose effects reach each other at once, in order; `cut` ones hear nothing.
struct Net {
  explicit Net(std::uint32_t n) {
    for (std::uint32_t r = 0; r < n; ++r) ranks.emplace_back(Rank{r}, n);
  }
  void settle() {
    for (bool any = true; any;) {
      any = false;
      for (std::uint32_t r = 0; r < ranks.size(); ++r) {
        for (const auto& effect : ranks[r].takeEffects()) {
          any = true;
          perform(Rank{r}, effect);
        }
      }
    }
  }
  void perform(Rank at, const p2p::Effect& effect) {
    if (const auto* control = std::get_if<p2p::SendControl>(&effect)) {
      if (cut.contains(control->to)) return;
      P2p& peer = ranks[control->to.value];
      if (const auto* m = std::get_if<msg::Offer>(&control->body)) peer.control(at, *m);
      if (const auto* m = std::get_if<msg::Accept>(&control->body)) peer.control(at, *m);
      if (const auto* m = std::get_if<msg::Withdraw>(&control->body)) peer.control(at, *m);
    } else if (const auto* blocks = std::get_if<p2p::SendBlocks>(&effect)) {
      P2p& peer = ranks[blocks->to.value];
      if (const auto id = peer.wants(at, blocks->id, 0)) {
        moved.emplace_back(at, blocks->id, blocks->to, *id);
        peer.placed(at, blocks->id, 0);
      }
      ranks[at.value].posted(blocks->id);
    } else if (const auto* finish = std::get_if<p2p::Finish>(&effect)) {
      ended[at].emplace(finish->id, *finish);
    }
  }
  const p2p::Finish* end(std::uint32_t rank, std::uint64_t id) const {
    const auto it = ended.find(Rank{rank});
    if (it == ended.end()) return nullptr;
    const auto found = it->second.find(Seq{id});
    return found == it->second.end() ? nullptr : &found->second;
  }
  ErrorKind error(std::uint32_t rank, std::uint64_t id) const {
    const auto* finish = end(rank, id);
    return finish == nullptr ? ErrorKind::invalid : finish->error.kind;
  }

  std::deque<P2p> ranks;
  ContributorSet cut;
  std::map<Rank, std::map<Seq, p2p::Finish>> ended;
  std::vector<std::tuple<Rank, Seq, Rank, Seq>> moved;  // from, its id, to, its id
};

TEST(P2p, SendMeetsReceiveInEitherOrder) {
  Net net(2);
  net.ranks[0].send(operation(1, 1, 0));
  net.settle();
  EXPECT_EQ(net.end(0, 1), nullptr) << "nobody receives it yet";
  net.ranks[1].receive(operation(1, 0, 0));
  net.settle();
  EXPECT_EQ(net.error(0, 1), ErrorKind::none);
  EXPECT_EQ(net.error(1, 1), ErrorKind::none);
  EXPECT_EQ(net.end(1, 1)->peer, Rank{0});
  net.ranks[1].receive(operation(2, 0, 0));
  net.settle();
  net.ranks[0].send(operation(2, 1, 0));
  net.settle();
  EXPECT_EQ(net.error(1, 2), ErrorKind::none);
  EXPECT_EQ(net.ranks[0].open() + net.ranks[1].open(), 0u);
}

TEST(P2p, MatchesByTagAndInOrderWithinATag) {
  Net net(2);
  net.ranks[0].send(operation(1, 1, 5));
  net.ranks[0].send(operation(2, 1, 6));
  net.ranks[0].send(operation(3, 1, 5));
  net.settle();
  net.ranks[1].receive(operation(10, 0, 6));
  net.ranks[1].receive(operation(11, 0, 5));
  net.ranks[1].receive(operation(12, 0, 5));
  net.settle();
  const auto moved = [&](std::uint64_t send, std::uint64_t receive) {
    return std::count(net.moved.begin(), net.moved.end(),
                      std::tuple(Rank{0}, Seq{send}, Rank{1}, Seq{receive})) == 1;
  };
  EXPECT_TRUE(moved(2, 10));
  EXPECT_TRUE(moved(1, 11));
  EXPECT_TRUE(moved(3, 12));
}

TEST(P2p, AnySourceTakesWhoCameFirstAndSaysWho) {
  Net net(3);
  net.ranks[2].send(operation(1, 0, 0));
  net.settle();
  net.ranks[1].send(operation(1, 0, 0));
  net.settle();
  net.ranks[0].receive(operation(1, std::nullopt, 0));
  net.ranks[0].receive(operation(2, std::nullopt, 0));
  net.settle();
  EXPECT_EQ(net.end(0, 1)->peer, Rank{2});
  EXPECT_EQ(net.end(0, 2)->peer, Rank{1});
}

TEST(P2p, EmptyMessagesNeedNoBlock) {
  Net net(2);
  net.ranks[0].send(operation(1, 1, 0, 0));
  net.ranks[1].receive(operation(1, 0, 0, 0));
  net.settle();
  EXPECT_EQ(net.error(0, 1), ErrorKind::none);
  EXPECT_EQ(net.error(1, 1), ErrorKind::none);
  EXPECT_TRUE(net.moved.empty());
}

TEST(P2p, AnotherSizeIsAnErrorOnBothSides) {
  Net net(2);
  net.ranks[0].send(operation(1, 1, 0, 8));
  net.ranks[1].receive(operation(1, 0, 0, 16));
  net.settle();
  EXPECT_EQ(net.error(0, 1), ErrorKind::schema_mismatch);
  EXPECT_EQ(net.error(1, 1), ErrorKind::schema_mismatch);
  EXPECT_TRUE(net.end(0, 1)->error.ranks.contains(Rank{1}));
  EXPECT_NE(net.end(1, 1)->error.text.find("8 bytes"), std::string::npos);
  net.ranks[0].send(operation(2, 1, 0));
  net.ranks[1].receive(operation(2, 0, 0));
  net.settle();
  EXPECT_EQ(net.error(1, 2), ErrorKind::none) << "the next one is not harmed";
}

TEST(P2p, DeathOfAPeerEndsWhatConcernsIt) {
  Net net(3);
  net.ranks[0].send(operation(1, 1, 0));
  net.ranks[0].receive(operation(2, 1, 0));
  net.ranks[0].receive(operation(3, 2, 0));
  net.ranks[0].receive(operation(4, std::nullopt, 9));
  net.settle();
  net.ranks[0].peerGone(Rank{1}, Reason::dead);
  net.settle();
  for (const std::uint64_t id : {1, 2}) {
    EXPECT_EQ(net.error(0, id), ErrorKind::peer_failed);
    EXPECT_EQ(net.end(0, id)->error.reason, Reason::dead);
    EXPECT_TRUE(net.end(0, id)->error.ranks.contains(Rank{1}));
  }
  EXPECT_EQ(net.end(0, 3), nullptr);
  EXPECT_EQ(net.end(0, 4), nullptr) << "rank 2 may still send it";
  net.ranks[0].send(operation(5, 1, 0));
  net.ranks[0].receive(operation(6, 1, 0));
  net.settle();
  EXPECT_EQ(net.error(0, 5), ErrorKind::peer_failed);
  EXPECT_EQ(net.error(0, 6), ErrorKind::peer_failed);
  net.ranks[0].peerGone(Rank{2}, Reason::left);
  net.settle();
  EXPECT_EQ(net.error(0, 3), ErrorKind::peer_failed);
  EXPECT_EQ(net.error(0, 4), ErrorKind::peer_failed);
  EXPECT_EQ(net.ranks[0].open(), 0u);
}

TEST(P2p, DeadlineNamesTheOtherSideAndTellsIt) {
  Net net(2);
  net.ranks[0].send(operation(1, 1, 0));
  net.settle();
  EXPECT_EQ(net.ranks[0].nextDeadline(), kNow + 10s);
  net.ranks[0].tick(kNow + 9s);
  EXPECT_EQ(net.ranks[0].open(), 1u);
  net.ranks[0].tick(kNow + 10s);
  net.settle();
  EXPECT_EQ(net.error(0, 1), ErrorKind::deadline_exceeded);
  EXPECT_EQ(net.end(0, 1)->error.reason, Reason::unreachable);
  EXPECT_TRUE(net.end(0, 1)->error.ranks.contains(Rank{1}));
  // The withdrawn message is not matched any more.
  net.ranks[1].receive(operation(1, 0, 0));
  net.settle();
  EXPECT_EQ(net.end(1, 1), nullptr);
  net.ranks[1].tick(kNow + 10s);
  net.settle();
  EXPECT_EQ(net.error(1, 1), ErrorKind::deadline_exceeded);
}

// Whoever gives up after the match tells the other side, which must not wait for its deadline.
TEST(P2p, GivingUpAfterTheMatchEndsBothSides) {
  for (const bool sender_gives_up : {true, false}) {
    P2p sender(Rank{0}, 2), receiver(Rank{1}, 2);
    sender.send(operation(1, 1, 0));
    receiver.control(Rank{0}, msg::Offer{Seq{1}, 0, 8, 1});
    receiver.receive(operation(7, 0, 0));
    sender.control(Rank{1}, msg::Accept{Seq{1}});
    (sender_gives_up ? sender : receiver)
        .cancel(Seq{sender_gives_up ? 1U : 7U}, ErrorKind::aborted, "stop");
    std::optional<msg::Withdraw> told;
    for (const auto& effect : (sender_gives_up ? sender : receiver).takeEffects()) {
      const auto* control = std::get_if<p2p::SendControl>(&effect);
      if (control == nullptr) continue;
      if (const auto* m = std::get_if<msg::Withdraw>(&control->body)) told = *m;
    }
    ASSERT_TRUE(told);
    EXPECT_EQ(told->by_receiver, !sender_gives_up);
    P2p& other = sender_gives_up ? receiver : sender;
    other.control(Rank{sender_gives_up ? 0U : 1U}, *told);
    EXPECT_EQ(other.open(), 0u);
  }
}

TEST(P2p, NothingFromAPeerIsTrusted) {
  P2p rank(Rank{0}, 3);
  rank.receive(operation(1, 1, 0));
  rank.control(Rank{1}, msg::Accept{Seq{1}});                // of nothing
  rank.control(Rank{1}, msg::Withdraw{Seq{99}, true, 200});  // of nothing
  rank.control(Rank{2}, msg::Offer{Seq{5}, 0, 8, 1});        // not the one asked for
  EXPECT_FALSE(rank.wants(Rank{2}, Seq{5}, 0));
  rank.control(Rank{1}, msg::Offer{Seq{5}, 0, 8, 0xffffffff});  // would be 4 billion blocks
  EXPECT_EQ(rank.open(), 0u) << "a mismatch, nothing was allocated";
  rank.receive(operation(2, 1, 0));
  rank.control(Rank{1}, msg::Offer{Seq{6}, 0, 8, 1});
  EXPECT_FALSE(rank.wants(Rank{2}, Seq{6}, 0)) << "another rank's name";
  EXPECT_FALSE(rank.wants(Rank{1}, Seq{6}, 1)) << "no such block";
  ASSERT_TRUE(rank.wants(Rank{1}, Seq{6}, 0));
  rank.placed(Rank{1}, Seq{6}, 0);
  EXPECT_FALSE(rank.wants(Rank{1}, Seq{6}, 0)) << "twice";
  rank.placed(Rank{1}, Seq{6}, 0);
  rank.takeEffects();
  for (std::uint64_t id = 0; id < 3 * P2p::kMostUnmatched; ++id) {
    rank.control(Rank{1}, msg::Offer{Seq{100 + id}, 1, 8, 1});
  }
  EXPECT_TRUE(rank.takeEffects().empty());
}

TEST(P2p, TooManyUnmatchedSendsFailAtOnce) {
  P2p rank(Rank{0}, 2);
  for (std::uint64_t id = 1; id <= P2p::kMostUnmatched; ++id) rank.send(operation(id, 1, 0));
  rank.takeEffects();
  rank.send(operation(P2p::kMostUnmatched + 1, 1, 0));
  const auto effects = rank.takeEffects();
  ASSERT_EQ(effects.size(), 1u);
  EXPECT_EQ(std::get<p2p::Finish>(effects[0]).error.kind, ErrorKind::invalid);
}

TEST(P2p, ADamagedBlockEndsTheReceive) {
  Net net(2);
  net.ranks[1].receive(operation(1, 0, 0));
  net.ranks[1].control(Rank{0}, msg::Offer{Seq{4}, 0, 8, 1});
  net.ranks[1].damaged(Rank{0}, Seq{4});
  net.settle();
  EXPECT_EQ(net.error(1, 1), ErrorKind::peer_failed);
  EXPECT_EQ(net.end(1, 1)->error.reason, Reason::corrupt);
}

// Random traffic among 4 ranks; whoever dies, every operation ends, and matches keep their order.
TEST(P2p, RandomTrafficAlwaysEnds) {
  for (std::uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    Net net(4);
    std::map<Rank, std::uint64_t> ids;
    std::map<Rank, std::vector<p2p::Operation>> issued;
    for (int step = 0; step < 60; ++step) {
      const Rank me{static_cast<std::uint32_t>(random() % 4)};
      if (net.cut.contains(me)) continue;
      const std::uint32_t other = (me.value + 1 + random() % 3) % 4;
      auto op = operation(++ids[me], other, static_cast<std::int32_t>(random() % 2));
      const bool sends = random() % 2 == 0;
      if (!sends && random() % 4 == 0) op.peer = std::nullopt;
      sends ? net.ranks[me.value].send(op) : net.ranks[me.value].receive(op);
      if (random() % 3 == 0) net.settle();
      if (random() % 60 == 0) {
        net.cut.insert(me);
        net.ranks[me.value].cancelAll(ErrorKind::aborted, "died");
        net.ranks[me.value].takeEffects();
        for (std::uint32_t r = 0; r < 4; ++r) {
          if (Rank{r} != me) net.ranks[r].peerGone(me, Reason::dead);
        }
      }
    }
    net.settle();
    for (auto& rank : net.ranks) rank.tick(kNow + 10s);
    net.settle();
    for (const auto& rank : net.ranks) ASSERT_EQ(rank.open(), 0u) << "seed " << seed;
    // Nothing arrived twice, and nothing that was not sent.
    std::set<std::pair<Rank, Seq>> sent, got;
    for (const auto& [from, id, to, theirs] : net.moved) {
      ASSERT_TRUE(sent.emplace(from, id).second) << "seed " << seed;
      ASSERT_TRUE(got.emplace(to, theirs).second) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace papilio::fault
