// How a failed collective becomes a Python exception of papilio's hierarchy (api.md 5).
#pragma once

#include <exception>
#include <string>

#include "core/ids.hpp"
#include "fault/report.hpp"

namespace papilio::pg {

struct ErrorContext {
  std::string group;
  Rank rank;
  std::uint32_t size = 1;
  std::string op;
};

// "papilio[rank 2/4 world seq 118] all_reduce: rank 3 … "
std::string errorText(const ErrorContext& context, Seq seq, const fault::RoundError& error);

// The exception for `error`, with attributes ranks, reason, mine, theirs, op, seq. Takes the
// interpreter lock for a moment; falls back to c10::DistBackendError when there is no interpreter.
std::exception_ptr makeException(const ErrorContext& context, Seq seq,
                                 const fault::RoundError& error);

}  // namespace papilio::pg
