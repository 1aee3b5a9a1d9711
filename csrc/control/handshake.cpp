#include "control/handshake.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <cstring>
#include <stdexcept>

#include "core/bytes.hpp"

namespace papilio::control {

namespace {

constexpr std::array<char, 8> kMagic{'P', 'P', 'L', 'C', 'T', 'L', '0', '1'};
constexpr std::size_t kMaxText = 1024;
constexpr std::size_t kMaxDataAddress = 8 * 1024;

using Mac = std::array<std::byte, kMacBytes>;

Mac macOf(Role role, const Session& session, std::span<const std::byte> hello,
          std::span<const std::byte> secret) {
  std::vector<std::byte> text;
  text.push_back(static_cast<std::byte>(role));
  text.insert(text.end(), session.dialer.begin(), session.dialer.end());
  text.insert(text.end(), session.listener.begin(), session.listener.end());
  text.insert(text.end(), hello.begin(), hello.end());
  Mac out{};
  unsigned size = kMacBytes;
  HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(),
       reinterpret_cast<unsigned char*>(out.data()), &size);
  return out;
}

std::vector<std::byte> encodeHello(const engine::PeerHello& hello) {
  ByteWriter writer;
  writer.write(hello.process.value);
  writer.write(hello.incarnation.value);
  writer.write(hello.pid);
  writer.writeText(hello.host, kMaxText);
  writer.writeText(hello.host_id, kMaxText);
  writer.writeText(hello.address, kMaxText);
  writer.writeText(hello.versions, kMaxText);
  const std::string_view address(reinterpret_cast<const char*>(hello.data_address.data()),
                                 hello.data_address.size());
  writer.writeText(address, kMaxDataAddress);
  return writer.take();
}

bool decodeHello(std::span<const std::byte> bytes, engine::PeerHello& out) {
  ByteReader reader(bytes);
  out.process = ProcessId{reader.read<std::uint64_t>()};
  out.incarnation = Incarnation{reader.read<std::uint32_t>()};
  out.pid = reader.read<std::uint32_t>();
  out.host = reader.readText(kMaxText);
  out.host_id = reader.readText(kMaxText);
  out.address = reader.readText(kMaxText);
  out.versions = reader.readText(kMaxText);
  const std::string address = reader.readText(kMaxDataAddress);
  const auto view = std::as_bytes(std::span(address));
  out.data_address.assign(view.begin(), view.end());
  return reader.exhausted();
}

}  // namespace

Nonce makeNonce() {
  Nonce out{};
  if (RAND_bytes(reinterpret_cast<unsigned char*>(out.data()), kNonceBytes) != 1) {
    throw std::runtime_error("no random numbers from the operating system");
  }
  return out;
}

std::vector<std::byte> greeting(const Nonce& nonce) {
  std::vector<std::byte> out(kGreetingBytes);
  std::memcpy(out.data(), kMagic.data(), kMagic.size());
  std::memcpy(out.data() + kMagic.size(), nonce.data(), nonce.size());
  return out;
}

std::optional<Nonce> parseGreeting(std::span<const std::byte> bytes) {
  if (bytes.size() != kGreetingBytes) return std::nullopt;
  if (std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) return std::nullopt;
  Nonce out{};
  std::memcpy(out.data(), bytes.data() + kMagic.size(), out.size());
  return out;
}

std::vector<std::byte> sealHello(const engine::PeerHello& hello, Role role, const Session& session,
                                 std::span<const std::byte> secret) {
  const auto body = encodeHello(hello);
  const Mac mac = macOf(role, session, body, secret);
  std::vector<std::byte> out(mac.size() + body.size());
  std::memcpy(out.data(), mac.data(), mac.size());
  std::memcpy(out.data() + mac.size(), body.data(), body.size());
  return out;
}

HelloError openHello(std::span<const std::byte> bytes, Role role, const Session& session,
                     std::span<const std::byte> secret, engine::PeerHello& out) {
  if (bytes.size() < kMacBytes || bytes.size() > kMaxHelloBytes) return HelloError::malformed;
  const auto body = bytes.subspan(kMacBytes);
  const Mac expected = macOf(role, session, body, secret);
  if (CRYPTO_memcmp(expected.data(), bytes.data(), kMacBytes) != 0) return HelloError::secret;
  return decodeHello(body, out) ? HelloError::none : HelloError::malformed;
}

}  // namespace papilio::control
