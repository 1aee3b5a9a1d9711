#include "shm_transport/shm_address.hpp"

#include "core/bytes.hpp"

namespace papilio::shm {

namespace {
constexpr std::size_t kLongestHost = 256;
}

std::vector<std::byte> join(const std::optional<Address>& own,
                            std::span<const std::byte> other_lane) {
  ByteWriter writer;
  writer.write(static_cast<std::uint32_t>(other_lane.size()));
  for (const auto byte : other_lane) writer.write(byte);
  if (!own) return writer.take();
  writer.writeText(own->host_id, kLongestHost);
  writer.write(own->pid);
  writer.write(own->segment_fd);
  writer.write(own->bell_fd);
  writer.write(own->waiter_bell_fd);
  for (const auto word : own->nonce) writer.write(word);
  return writer.take();
}

Parts split(std::span<const std::byte> joined) {
  Parts out;
  ByteReader length(joined);
  const auto size = length.read<std::uint32_t>();
  if (length.failed() || size > joined.size() - sizeof(size)) return out;
  out.other_lane = joined.subspan(sizeof(size), size);
  ByteReader reader(joined.subspan(sizeof(size) + size));
  Address own;
  own.host_id = reader.readText(kLongestHost);
  own.pid = reader.read<std::uint32_t>();
  own.segment_fd = reader.read<std::int32_t>();
  own.bell_fd = reader.read<std::int32_t>();
  own.waiter_bell_fd = reader.read<std::int32_t>();
  for (auto& word : own.nonce) word = reader.read<std::uint64_t>();
  const bool whole = own.segment_fd >= 0 && own.bell_fd >= 0 && own.waiter_bell_fd >= 0;
  if (reader.exhausted() && whole) out.own = own;
  return out;
}

}  // namespace papilio::shm
