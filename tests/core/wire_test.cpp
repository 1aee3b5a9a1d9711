// Data headers: what goes in comes out, and nothing else is accepted.
#include "core/wire.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "core/crc32c.hpp"

namespace papilio {
namespace {

DataHeader sample(MessageType type) {
  DataHeader header;
  header.type = type;
  if (type == MessageType::result) {
    header.flags = kFetched | kNonFiniteDropped | kCorruptDropped;
  }
  header.group = GroupId{0x1234};
  header.incarnation = Incarnation{7};
  header.view = ViewNumber{1};
  header.src = Rank{3};
  header.seq = Seq{99};
  header.schema = SchemaHash{0xabcdef};
  header.chunk = ChunkIndex{17};
  header.attempt = 2;
  header.payload_bytes = 4096;
  header.payload_crc = 0xdeadbeef;
  header.weight = 2.5F;
  if (type == MessageType::contribution) {
    header.shape.numel = 1024;
    header.shape.op = ReduceOp::avg;
    header.shape.dtype = DType::bfloat16;
    header.shape.fingerprint = 42;
  }
  if (type == MessageType::result) {
    header.contributors.insert(Rank{0});
    header.contributors.insert(Rank{255});
    header.blamed.insert(Rank{254});
    header.mismatched.insert(Rank{253});
    header.nonfinite.insert(Rank{252});
    header.corrupt.insert(Rank{251});
    header.weight_sum = 3.75;
  }
  return header;
}

class WireTest : public testing::TestWithParam<MessageType> {};

TEST_P(WireTest, RoundTrip) {
  EncodedHeader encoded;
  encode(sample(GetParam()), encoded);
  DataHeader out;
  ASSERT_EQ(parse(encoded.view(), out), ParseError::none);
  EXPECT_EQ(out, sample(GetParam()));
}

TEST_P(WireTest, EveryFlippedBitIsRejected) {
  EncodedHeader encoded;
  encode(sample(GetParam()), encoded);
  for (std::uint32_t bit = 0; bit < encoded.size * 8; ++bit) {
    EncodedHeader broken = encoded;
    broken.bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    DataHeader out;
    ASSERT_NE(parse(broken.view(), out), ParseError::none) << "bit " << bit;
  }
}

TEST_P(WireTest, EveryTruncationIsRejected) {
  EncodedHeader encoded;
  encode(sample(GetParam()), encoded);
  for (std::uint32_t size = 0; size < encoded.size; ++size) {
    DataHeader out;
    ASSERT_NE(parse(encoded.view().first(size), out), ParseError::none) << size;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, WireTest,
                         testing::Values(MessageType::contribution, MessageType::result,
                                         MessageType::block, MessageType::piece));

// A peer that computes the right checksum over illegal fields.
TEST(Wire, IllegalFieldsWithAValidChecksum) {
  const auto reject = [](auto&& change) {
    EncodedHeader encoded;
    encode(sample(MessageType::contribution), encoded);
    change(encoded.bytes.data());
    const auto view = encoded.view();
    const std::uint32_t crc = crc32c(view.subspan(64), crc32c(view.first(60)));
    std::memcpy(encoded.bytes.data() + 60, &crc, sizeof crc);
    DataHeader out;
    return parse(encoded.view(), out);
  };
  EXPECT_EQ(reject([](std::byte*) {}), ParseError::none);
  EXPECT_EQ(reject([](std::byte* b) { b[7] = std::byte{0x80}; }), ParseError::range);  // no flag
  EXPECT_EQ(reject([](std::byte* b) { b[6] = std::byte{kRelayed}; }),
            ParseError::range);                                                      // result's
  EXPECT_EQ(reject([](std::byte* b) { b[22] = std::byte{1}; }), ParseError::range);  // rank
  EXPECT_EQ(reject([](std::byte* b) { std::memset(b + 24, 0, 8); }), ParseError::range);  // seq 0
  EXPECT_EQ(reject([](std::byte* b) { b[64] = std::byte{0}; }), ParseError::range);       // op kind
  EXPECT_EQ(reject([](std::byte* b) { b[66] = std::byte{99}; }), ParseError::range);      // dtype
  EXPECT_EQ(reject([](std::byte* b) { std::memset(b + 72, 0xff, 8); }), ParseError::range);
  EXPECT_EQ(reject([](std::byte* b) {
              const double nan = std::numeric_limits<double>::quiet_NaN();
              std::memcpy(b + 80, &nan, sizeof nan);
            }),
            ParseError::range);
}

// Who speaks for a host says for whom, behind the shape; only a contribution may.
TEST(Wire, AContributionOfAHostSaysWhoseDataItIs) {
  DataHeader header = sample(MessageType::contribution);
  header.flags = kOfHost;
  header.contributors.insert(Rank{3});
  header.contributors.insert(Rank{200});
  header.blamed.insert(Rank{199});
  EncodedHeader encoded;
  encode(header, encoded);
  DataHeader out;
  ASSERT_EQ(parse(encoded.view(), out), ParseError::none);
  EXPECT_EQ(out, header);
  for (std::uint32_t size = 0; size < encoded.size; ++size) {
    ASSERT_NE(parse(encoded.view().first(size), out), ParseError::none) << size;
  }
  for (const std::uint16_t flag : {kOfHost, kListens}) {
    DataHeader result = sample(MessageType::result);
    result.flags = flag;
    encode(result, encoded);
    EXPECT_EQ(parse(encoded.view(), out), ParseError::range) << flag;
  }
}

}  // namespace
}  // namespace papilio
