// Address records and local addresses.
#include "control/record.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include "control/addresses.hpp"
#include "control/control_plane.hpp"

namespace papilio::control {
namespace {

TEST(Record, ComesBackAsItWas) {
  for (const auto* place : {"10.0.0.3:41532", "127.0.0.1:1", "fe80::1:65535"}) {
    const auto text = formatRecord(place, ProcessId{0xfedcba9876543210}, 0xabcdef);
    const auto record = parseRecord(text);
    EXPECT_EQ(record.process, ProcessId{0xfedcba9876543210});
    EXPECT_EQ(record.host, 0xabcdefu);
    EXPECT_EQ(hostOf(text), 0xabcdefu);
    EXPECT_EQ(record.endpoint.address().to_string() + ":" + std::to_string(record.endpoint.port()),
              place);
  }
}

TEST(Record, RefusesEverythingElse) {
  for (const auto* text : {"",
                           " ",
                           "papilio2",
                           "papilio2 ",
                           "papilio2 127.0.0.1:1",
                           "papilio1 127.0.0.1:1 ab 12",
                           "papilio2 127.0.0.1 ab 12",
                           "papilio2 127.0.0.1: ab 12",
                           "papilio2 127.0.0.1:0 ab 12",
                           "papilio2 127.0.0.1:65536 ab 12",
                           "papilio2 127.0.0.1:99999999999 ab 12",
                           "papilio2 127.0.0.1:-1 ab 12",
                           "papilio2 127.0.0.1:1x ab 12",
                           "papilio2 localhost:1 ab 12",
                           "papilio2 :1 ab 12",
                           "papilio2 127.0.0.1:1 ab",
                           "papilio2 127.0.0.1:1 ab xyz",
                           "papilio2 127.0.0.1:1 ",
                           "papilio2 127.0.0.1:1 xyz 12",
                           "papilio2 127.0.0.1:1 11112222333344445 12",
                           "papilio2 127.0.0.1:1 ab ",
                           "papilio2 127.0.0.1:1 ab cd ef",
                           "\n",
                           "papilio2\n127.0.0.1:1\nab"}) {
    EXPECT_THROW(parseRecord(text), std::invalid_argument) << "'" << text << "'";
  }
}

TEST(Record, AnErrorDoesNotRepeatMegabytes) {
  try {
    parseRecord(std::string(1 << 20, 'x'));
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_LT(std::string(error.what()).size(), 400u);
  }
}

TEST(Addresses, InterfaceNameAndItsAddressMeanTheSame) {
  EXPECT_EQ(addressFor("lo"), "127.0.0.1");
  EXPECT_EQ(addressFor("127.0.0.1"), "127.0.0.1");
  EXPECT_EQ(addressFor(""), "127.0.0.1");
  EXPECT_EQ(interfaceOf("127.0.0.1"), "lo");
  EXPECT_EQ(interfaceOf("203.0.113.9"), "");
}

TEST(Addresses, AnUnknownInterfaceIsAnErrorThatListsTheKnownOnes) {
  for (const auto* wanted : {"nosuch0", "203.0.113.9", "lo ", "127.0.0.999"}) {
    try {
      addressFor(wanted);
      FAIL() << wanted;
    } catch (const std::invalid_argument& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find(wanted), std::string::npos) << text;
      EXPECT_NE(text.find("lo (127.0.0.1)"), std::string::npos) << text;
      EXPECT_NE(text.find("PAPILIO_INTERFACE"), std::string::npos) << text;
    }
  }
}

TEST(Addresses, TextOfBothFamiliesAndOfNeither) {
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_addr.s_addr = htonl(0x0a000003);
  EXPECT_EQ(textOf(reinterpret_cast<const sockaddr*>(&four)), "10.0.0.3");
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_addr = in6addr_loopback;
  EXPECT_EQ(textOf(reinterpret_cast<const sockaddr*>(&six)), "::1");
  sockaddr other{};
  other.sa_family = AF_UNIX;
  EXPECT_EQ(textOf(&other), "");
}

TEST(Addresses, HostIdentityIsStableAndNotEmpty) {
  EXPECT_EQ(hostIdentity(), hostIdentity());
  EXPECT_GT(hostIdentity().size(), 30u);
}

}  // namespace
}  // namespace papilio::control
