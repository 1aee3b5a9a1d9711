// What happened in one collective: the explanation of every element (api.md 3).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/contributor_set.hpp"
#include "core/ids.hpp"
#include "core/round_shape.hpp"
#include "core/time.hpp"

namespace papilio::fault {

// Why a rank is missing. The texts are api.md's `blamed` values.
enum class Reason : std::uint8_t {
  none,
  dead,
  slow,
  schema,
  blacklisted,
  corrupt,
  nonfinite,
  unreachable,
  left,
  manual,
};
inline constexpr std::uint8_t kReasonLast = 9;
const char* name(Reason reason);

enum class Outcome : std::uint8_t { complete, degraded, local };
const char* name(Outcome outcome);

// Where a chunk's value came from.
enum class Source : std::uint8_t { reduced, fetched, redone, local };
const char* name(Source source);

struct ReportChunk {
  std::uint64_t start = 0;  // elements, half-open
  std::uint64_t stop = 0;
  Source source = Source::reduced;
  ContributorSet contributors;
  double weight = 0.0;  // sum of the contributors' weights
  bool operator==(const ReportChunk&) const = default;
};

struct Report {
  RoundShape shape;
  Seq seq;
  ViewNumber view;
  Outcome outcome = Outcome::complete;
  std::uint64_t nbytes = 0;
  Duration elapsed{};               // filled by the engine, from issue to completion
  std::vector<ReportChunk> chunks;  // partition of [0, numel), adjacent equal ones merged
  std::map<Rank, Reason> blamed;
  ContributorSet late;
  bool self_suspect = false;
};

// How a collective can fail (api.md 5).
enum class ErrorKind : std::uint8_t {
  none,
  peer_failed,
  schema_mismatch,
  evicted,
  quorum_lost,
  deadline_exceeded,
  aborted,
  invalid,  // wrong arguments that only the engine can see
};
const char* name(ErrorKind kind);

struct RoundError {
  ErrorKind kind = ErrorKind::none;
  ContributorSet ranks;  // whom it names
  Reason reason = Reason::none;
  std::string text;  // evidence and what happens next, one sentence each
  std::string mine;  // schema_mismatch: what this rank has, and what the others have
  std::string theirs;
  explicit operator bool() const { return kind != ErrorKind::none; }
};

// Something a user may want to know when it happens (api.md 4, on_event).
enum class EventKind : std::uint8_t {
  peer_lost,
  peer_slow,
  blacklisted,
  readmitted,
  fallback,
  view,
  isolated,
  rejoined,
};
const char* name(EventKind kind);

struct Event {
  EventKind kind = EventKind::fallback;
  Rank rank;  // whom it is about
  Reason reason = Reason::none;
  Seq seq;
  std::string detail;
};

enum class PeerState : std::uint8_t { live, suspect, blacklisted, dead, left, joining, self };
const char* name(PeerState state);

struct BlacklistEntry {
  Rank rank;
  Incarnation incarnation;
  Reason reason = Reason::none;
  std::uint32_t strikes = 0;
  Time since{};
  Time expires = kNever;  // kNever: until it returns with the right fingerprint
};

}  // namespace papilio::fault
