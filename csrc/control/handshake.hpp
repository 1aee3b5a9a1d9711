// What two processes say before they trust each other. Both send a greeting with a nonce, then
// their hello and a MAC over role, both nonces and the hello: knowledge of the secret, no replay,
// no reflection. Pure functions on bytes.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "engine/control_plane.hpp"

namespace papilio::control {

inline constexpr std::size_t kNonceBytes = 32;
inline constexpr std::size_t kMacBytes = 32;
inline constexpr std::size_t kGreetingBytes = 8 + kNonceBytes;
inline constexpr std::size_t kMaxHelloBytes = 64 * 1024;

using Nonce = std::array<std::byte, kNonceBytes>;

enum class Role : std::uint8_t { dialer = 1, listener = 2 };

Nonce makeNonce();  // from the operating system's generator; throws std::runtime_error
std::vector<std::byte> greeting(const Nonce& nonce);
std::optional<Nonce> parseGreeting(std::span<const std::byte> bytes);

struct Session {
  Nonce dialer;
  Nonce listener;
};

// Hello of the process in `role`, with its MAC in front.
std::vector<std::byte> sealHello(const engine::PeerHello& hello, Role role, const Session& session,
                                 std::span<const std::byte> secret);

enum class HelloError : std::uint8_t { none, secret, malformed };
// Checks the MAC first; `out` is filled only with none.
HelloError openHello(std::span<const std::byte> bytes, Role role, const Session& session,
                     std::span<const std::byte> secret, engine::PeerHello& out);

}  // namespace papilio::control
