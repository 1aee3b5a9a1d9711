#include "fault/report.hpp"

namespace papilio::fault {

const char* name(Reason reason) {
  switch (reason) {
    case Reason::none: return "none";
    case Reason::dead: return "dead";
    case Reason::slow: return "slow";
    case Reason::schema: return "schema";
    case Reason::blacklisted: return "blacklisted";
    case Reason::corrupt: return "corrupt";
    case Reason::nonfinite: return "nonfinite";
    case Reason::unreachable: return "unreachable";
    case Reason::left: return "left";
    case Reason::manual: return "manual";
  }
  return "unknown";
}

const char* name(Outcome outcome) {
  switch (outcome) {
    case Outcome::complete: return "complete";
    case Outcome::degraded: return "degraded";
    case Outcome::local: return "local";
  }
  return "unknown";
}

const char* name(Source source) {
  switch (source) {
    case Source::reduced: return "reduced";
    case Source::fetched: return "fetched";
    case Source::redone: return "redone";
    case Source::local: return "local";
  }
  return "unknown";
}

const char* name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::none: return "none";
    case ErrorKind::peer_failed: return "PeerFailed";
    case ErrorKind::schema_mismatch: return "SchemaMismatch";
    case ErrorKind::evicted: return "Evicted";
    case ErrorKind::quorum_lost: return "QuorumLost";
    case ErrorKind::deadline_exceeded: return "DeadlineExceeded";
    case ErrorKind::aborted: return "Aborted";
    case ErrorKind::invalid: return "Invalid";
  }
  return "unknown";
}

const char* name(EventKind kind) {
  switch (kind) {
    case EventKind::peer_lost: return "peer_lost";
    case EventKind::peer_slow: return "peer_slow";
    case EventKind::blacklisted: return "blacklisted";
    case EventKind::readmitted: return "readmitted";
    case EventKind::fallback: return "fallback";
    case EventKind::view: return "view";
    case EventKind::isolated: return "isolated";
    case EventKind::rejoined: return "rejoined";
  }
  return "unknown";
}

const char* name(PeerState state) {
  switch (state) {
    case PeerState::live: return "live";
    case PeerState::suspect: return "suspect";
    case PeerState::blacklisted: return "blacklisted";
    case PeerState::dead: return "dead";
    case PeerState::left: return "left";
    case PeerState::joining: return "joining";
    case PeerState::self: return "self";
  }
  return "unknown";
}

}  // namespace papilio::fault
