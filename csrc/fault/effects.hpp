// What the machines ask the engine to do. Effects are performed in order; a machine never performs
// anything itself. Bytes are named by (seq, schema, chunk), never held.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "core/control_message.hpp"
#include "core/ids.hpp"
#include "fault/report.hpp"

namespace papilio::fault {

namespace effect {

// Stage this rank's data of the chunk and send it, if the chunk is still pending by then.
struct SendContribution {
  Rank to;
  Seq seq;
  ChunkIndex chunk;
  std::uint16_t attempt = 0;
};
// Forget queued, not yet posted contributions of the round to `to`.
struct DropContributions {
  Rank to;
  Seq seq;
};
// Send the kept result of a closed chunk.
struct SendResult {
  Rank to;
  Seq seq;
  SchemaHash schema;
  ChunkIndex chunk;
  std::uint16_t flags = 0;
};
// Send a chunk that was received from another reducer, out of the round's own tensor. Its bytes are
// to be copied at once: the round may be over before they can be sent.
struct SendHeld {
  Rank to;
  Seq seq;
  ChunkIndex chunk;
};
// The same to those of this host that it speaks for, out of one copy.
struct Relay {
  ContributorSet to;
  Seq seq;
  ChunkIndex chunk;
};
// Reduce the kept contributions in rank order, keep the encoded result, free the contributions,
// then call Machine::reduced() with the senders whose data really went in.
struct Reduce {
  Seq seq;
  SchemaHash schema;
  ChunkIndex chunk;
  ContributorSet contributors;  // who sent them; each may stand for others too
};
// Copy the kept result into the user's tensor.
struct ApplyOwn {
  Seq seq;
  SchemaHash schema;
  ChunkIndex chunk;
};
// The user's tensor keeps (or gets, for SUM) the local value in this chunk.
struct FillLocal {
  Seq seq;
  ChunkIndex chunk;
};
struct SendControl {
  Rank to;
  ControlBody body;
};
// The collective is over; the engine must not touch the user's memory afterwards.
struct Finish {
  Seq seq;
  Report report;
  RoundError error;
};
// Free every byte kept for that round and schema.
struct Forget {
  Seq seq;
  SchemaHash schema;
};
// Free the contributions to that chunk: nobody waits for its reduction.
struct Discard {
  Seq seq;
  SchemaHash schema;
  ChunkIndex chunk;
};
// Strict: stage and send this phase's piece for `to`, then call Machine::blocksPosted().
struct SendBlocks {
  Rank to;
  Seq seq;
  std::uint16_t phase = 0;
};
// Strict: all data of the phase is here; run its local operation.
struct RunPhase {
  Seq seq;
  std::uint16_t phase = 0;
  ContributorSet members;
};
struct Notify {
  Event event;
};
// Ask the peer's progress thread for a sign of life; its answer comes back as Machine::heard().
struct Ping {
  Rank to;
};

}  // namespace effect

using Effect = std::variant<effect::SendContribution, effect::DropContributions, effect::SendResult,
                            effect::SendHeld, effect::Relay, effect::Reduce, effect::ApplyOwn,
                            effect::FillLocal, effect::SendControl, effect::Finish, effect::Forget,
                            effect::Discard, effect::SendBlocks, effect::RunPhase, effect::Notify,
                            effect::Ping>;
using Effects = std::vector<Effect>;

}  // namespace papilio::fault
