// The same bytes as memcpy(), and none beside them.
#include "engine/stream_copy.hpp"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace papilio::engine {
namespace {

TEST(StreamCopy, WritesWhatItIsGivenAndNothingElse) {
  std::mt19937 random(5);
  std::vector<std::byte> from(5000);
  for (auto& byte : from) byte = static_cast<std::byte>(random());
  for (int turn = 0; turn < 2000; ++turn) {
    const std::size_t bytes = random() % (turn % 2 == 0 ? 200 : 4700);
    const std::size_t read_at = random() % 130, write_at = random() % 130;
    std::vector<std::byte> to(5000, std::byte{0xee}), wanted = to;
    streamCopy(to.data() + write_at, from.data() + read_at, bytes);
    std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(read_at), bytes,
                wanted.begin() + static_cast<std::ptrdiff_t>(write_at));
    ASSERT_EQ(to, wanted) << bytes << " bytes from " << read_at << " to " << write_at;
  }
}

}  // namespace
}  // namespace papilio::engine
