// Messages of the protocol on the control lane (protocol A3). The control room carries them as
// opaque frames; this is their meaning, their encoding and their validation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "core/contributor_set.hpp"
#include "core/ids.hpp"
#include "core/round_shape.hpp"
#include "core/view.hpp"

namespace papilio {

// Half-open range of chunks of one round.
struct ChunkRange {
  std::uint32_t first = 0;
  std::uint32_t last = 0;
  bool operator==(const ChunkRange&) const = default;
};

enum class NackCode : std::uint8_t {
  schema = 1,   // your shape differs from mine; mine is in the message
  blacklisted,  // I do not take your contributions at present
  stale,        // that round is over and its results are gone; `oldest` is the first I still have
  corrupt,      // payload damaged: send that chunk again
  evicted,      // you are out here until you return with the right model
};
inline constexpr std::uint8_t kNackCodeLast = 5;

// Where a tolerant broadcast stands at the sender.
enum class Holding : std::uint8_t {
  has = 1,  // the whole tensor is here; `ranks` is the one rank whose it is
  lacks,    // it is not, and nothing of it is taken from `ranks` any more
  wants,    // send it to me
};
inline constexpr std::uint8_t kHoldingLast = 3;

// Paxos, for one value: the next view.
enum class BallotStage : std::uint8_t { prepare = 1, promise, refuse, propose, accept, decide };
inline constexpr std::uint8_t kBallotStageLast = 6;

namespace msg {

// The group exists here; sent to every member once, and again after a reconnect.
struct Join {
  Rank rank;
  std::uint32_t size = 0;
};
// The group was destroyed here (a clean leave), or left for its next view.
struct Leave {
  bool for_next_view = false;
};
// A strict collective was entered here, by a rank that counts on these members.
struct Enter {
  Seq seq;
  RoundShape shape;
  ContributorSet members;
};
// A strict collective failed here; everybody fails it with the same culprits.
struct StrictFailed {
  Seq seq;
  ContributorSet culprits;
  std::uint8_t reason = 0;  // fault::Reason
};
struct Nack {
  Seq seq;
  NackCode code = NackCode::stale;
  ChunkIndex chunk;
  Seq oldest;
  RoundShape shape;
  ContributorSet agreeing;  // schema: ranks that were seen with the shape in this message
};
// A vote on the schema of a round is over. Taken only by a rank that is in `winners` and itself
// entered the round with `schema`.
struct Verdict {
  Seq seq;
  SchemaHash schema;
  ContributorSet winners;
  ContributorSet losers;
};
// I still wait for `missing` before I can close chunks of this round. Empty: no longer.
struct Progress {
  Seq seq;
  ContributorSet missing;
};
// Send me the results of these chunks if you hold them.
struct Fetch {
  Seq seq;
  ChunkRange chunks;
};
// Answer to Fetch for chunks that I do not hold, and what I know of their results: that they came
// and I am through with the round; that I have waited for them in vain as well; or nothing.
enum class Known : std::uint8_t { nothing = 0, came = 1, lacking = 2 };
struct None {
  Seq seq;
  ChunkRange chunks;
  Known known = Known::nothing;
};
// I need nothing and send nothing any more for these chunks: do not wait for me.
struct Settled {
  Seq seq;
  ChunkRange chunks;
  Seq all_before;  // and nothing at all for rounds before this one
};
// I stopped waiting for `target` as a reducer from `seq` on; its shards go to its successor.
struct Suspect {
  Rank target;
  Seq seq;
  bool confirmed = false;  // somebody else has not got its results either
};
// I was routed around and am back: from `seq` on my shards come to me again.
struct Reinstate {
  Seq seq;
};
struct Handover {
  Seq seq;
  Holding holding = Holding::has;
  ContributorSet ranks;
};

// A point-to-point message waits here for a receive.
struct Offer {
  Seq id;  // the sender's name for it
  std::int32_t tag = 0;
  std::uint64_t bytes = 0;
  std::uint32_t blocks = 0;
};
// A receive has matched that message: send it.
struct Accept {
  Seq id;
};
// The sender, or the receiver that had matched it, gave the message up.
struct Withdraw {
  Seq id;
  bool by_receiver = false;
  std::uint8_t reason = 0;  // fault::Reason
};

// One step of the ballot on the next view (fault/view_change.hpp). `number` 0 means none.
struct Ballot {
  BallotStage stage = BallotStage::prepare;
  std::uint64_t number = 0;    // of the ballot; refuse: of the one that was promised instead
  std::uint64_t step = 0;      // promise: boundaries that the sender has reached
  std::uint64_t accepted = 0;  // promise: the ballot in which it accepted `next`
  std::optional<NextView> next;
};

}  // namespace msg

using ControlBody =
    std::variant<msg::Join, msg::Leave, msg::Enter, msg::StrictFailed, msg::Nack, msg::Verdict,
                 msg::Progress, msg::Fetch, msg::None, msg::Settled, msg::Suspect, msg::Reinstate,
                 msg::Handover, msg::Offer, msg::Accept, msg::Withdraw, msg::Ballot>;

struct ControlMessage {
  GroupId group;
  ControlBody body;
};

inline constexpr std::size_t kMaxControlBytes = 512;

std::vector<std::byte> encode(const ControlMessage& message);
// nullopt for anything that encode() can not have made.
std::optional<ControlMessage> parseControl(std::span<const std::byte> bytes);
// "FETCH seq 7 chunks [3,5)", for traces.
std::string describe(const ControlBody& body);

}  // namespace papilio
