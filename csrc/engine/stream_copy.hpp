// memcpy() for memory that nobody reads soon: the cache is left to others, and what lay there is
// not read first. To memory that is read soon it is slower.
#pragma once

#include <cstddef>

namespace papilio::engine {

// Other threads see the bytes when they see what the caller does next. Any alignment; the two must
// not overlap.
void streamCopy(std::byte* to, const std::byte* from, std::size_t bytes);

}  // namespace papilio::engine
