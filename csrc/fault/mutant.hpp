// Rules that a test can switch off, one at a time, to prove that it would notice (tests/mutants).
// The product knows nothing of it: there the macro is the constant false.
#pragma once

#ifdef PAPILIO_MUTANTS
#include <string_view>

namespace papilio::fault {
inline std::string_view mutant;  // the rule that is off; single-threaded, like all of this room
}

#define PAPILIO_MUTANT(rule) (::papilio::fault::mutant == #rule)
#else
#define PAPILIO_MUTANT(rule) false
#endif
