// Point-to-point messages of one group: pure, like Machine. A send is announced (OFFER) and moves
// only when the other side has a receive for it (ACCEPT), so an unmatched send costs no memory.
// Messages between two ranks with one tag match receives in the order in which both were issued.
//
// Operations are named by `id`, which the caller chooses, unique in the group and ascending; on the
// wire the sender's id names the message.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/control_message.hpp"
#include "core/ids.hpp"
#include "core/time.hpp"
#include "fault/report.hpp"

namespace papilio::fault {

namespace p2p {

struct SendControl {
  Rank to;
  ControlBody body;
};
// Stage and send all blocks of the message; then P2p::posted().
struct SendBlocks {
  Rank to;
  Seq id;
};
// The operation is over; its memory is not used any more.
struct Finish {
  Seq id;
  Rank peer;  // of a receive: whom it came from
  RoundError error;
};
using Effect = std::variant<SendControl, SendBlocks, Finish>;
using Effects = std::vector<Effect>;

struct Operation {
  Seq id;
  std::optional<Rank> peer;  // nullopt: a receive from anybody
  std::int32_t tag = 0;
  std::uint64_t bytes = 0;
  std::uint32_t blocks = 0;
  Time deadline{};
};

}  // namespace p2p

class P2p {
 public:
  P2p(Rank me, std::uint32_t size) : me_(me), size_(size), gone_(size) {}

  // The local rank.
  void send(p2p::Operation operation);
  void receive(p2p::Operation operation);
  void cancel(Seq id, ErrorKind kind, const std::string& text);
  void cancelAll(ErrorKind kind, const std::string& text);
  // All blocks of a SendBlocks effect were staged.
  void posted(Seq id);

  // Peers.
  void control(Rank from, const msg::Offer& offer);
  void control(Rank from, const msg::Accept& accept);
  void control(Rank from, const msg::Withdraw& withdraw);
  void peerGone(Rank rank, Reason reason);
  // The local receive that this block belongs to, if it is wanted. Then place it; placed() once it
  // is verified and copied.
  std::optional<Seq> wants(Rank from, Seq id, std::uint32_t block) const;
  void placed(Rank from, Seq id, std::uint32_t block);
  // The block came damaged: the receive fails, there is nothing to send it again from.
  void damaged(Rank from, Seq id);

  void tick(Time now);
  Time nextDeadline() const;
  p2p::Effects takeEffects() { return std::exchange(effects_, {}); }
  std::size_t open() const { return sends_.size() + receives_.size(); }

  // Sends to one rank that no receive has matched; more fail at once. Their announcements must fit
  // the queue of the control connection.
  static constexpr std::size_t kMostUnmatched = 4096;

 private:
  struct Send {
    p2p::Operation operation;
    bool accepted = false;
  };
  struct Receive {
    p2p::Operation operation;
    // Set when matched.
    std::optional<Rank> from;
    Seq message;
    std::vector<bool> got;
    std::uint32_t left = 0;
  };

  void match();
  bool matchOne(Receive& receive);
  void begin(Receive& receive, Rank from, const msg::Offer& offer);
  Receive* receiveOf(Rank from, Seq message);
  const Receive* receiveOf(Rank from, Seq message) const;
  void finish(Seq id, Rank peer, RoundError error);
  void fail(Seq id, ErrorKind kind, Reason reason, std::optional<Rank> peer, std::string text);
  bool nobodyLeft() const;
  std::size_t unmatched(Rank to) const;

  Rank me_;
  std::uint32_t size_;
  std::vector<Reason> gone_;  // by rank; none: it is there
  std::map<Seq, Send> sends_;
  std::map<Seq, Receive> receives_;
  std::deque<std::pair<Rank, msg::Offer>> offers_;  // unmatched, in order of arrival
  p2p::Effects effects_;
};

}  // namespace papilio::fault
