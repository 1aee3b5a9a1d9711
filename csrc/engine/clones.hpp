// PAPILIO_CLONES in front of a function: several instruction sets in one binary, chosen when it is
// loaded. Contraction is off for the whole project (cmake/Toolchain.cmake), so every clone computes
// the same bits. Not for templates.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__SANITIZE_THREAD__) && \
    !defined(__SANITIZE_ADDRESS__)
#define PAPILIO_CLONES __attribute__((target_clones("default", "avx2", "arch=skylake-avx512")))
#else
#define PAPILIO_CLONES
#endif
