// The hook that holds a rank in a phase: once, at the right place, and never when it is off.
#include "engine/test_hook.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <future>
#include <stdexcept>
#include <string>

namespace papilio::engine {
namespace {

// The test's ends of the two FIFOs.
class Fifos {
 public:
  Fifos() {
    std::array<char, 64> name{"/tmp/papilio-hook-XXXXXX"};
    folder_ = mkdtemp(name.data());
    for (const char* end : {".at", ".go"}) mkfifo((path() + end).c_str(), 0600);
    at_ = open((path() + ".at").c_str(), O_RDWR | O_CLOEXEC);
    go_ = open((path() + ".go").c_str(), O_RDWR | O_CLOEXEC);
  }
  ~Fifos() {
    letGo();
    close(at_);
    std::filesystem::remove_all(folder_);
  }
  std::string path() const { return folder_ + "/hook"; }
  // What the rank says within the time, "" if nothing.
  std::string said(int milliseconds) const {
    pollfd ready{at_, POLLIN, 0};
    std::array<char, 64> text{};
    if (poll(&ready, 1, milliseconds) != 1) return "";
    return {text.data(), static_cast<std::size_t>(read(at_, text.data(), text.size()))};
  }
  void release() const { EXPECT_EQ(write(go_, ".", 1), 1); }
  void letGo() {  // nobody is left who could release it
    if (go_ >= 0) close(go_);
    go_ = -1;
  }

 private:
  std::string folder_;
  int at_;
  int go_;
};

TEST(TestHook, RefusesWhatItDoesNotUnderstand) {
  for (const char* text : {"reducing", "reducing:3", "sleeping:3:/x", "reducing:x:/x",
                           "reducing:3x:/x", "reducing:-1:/x", ":::"}) {
    EXPECT_THROW(TestHook{text}, std::invalid_argument) << text;
  }
}

TEST(TestHook, IsOffWithoutAText) {
  for (const char* text : {static_cast<const char*>(nullptr), ""}) {
    TestHook hook(text);
    for (std::uint64_t seq = 0; seq < 4; ++seq) {
      hook.at(TestPhase::before, Seq{seq + 1});
      hook.whenPosted(TestPhase::returning, Seq{seq + 1});
      hook.posted();
    }
  }
}

TEST(TestHook, HoldsOnceInItsPhaseOfItsCollective) {
  const Fifos fifos;
  TestHook hook(("reducing:3:" + fifos.path()).c_str());
  hook.at(TestPhase::reducing, Seq{2});
  hook.at(TestPhase::before, Seq{3});
  EXPECT_EQ(fifos.said(0), "");
  auto held = std::async(std::launch::async, [&] { hook.at(TestPhase::reducing, Seq{3}); });
  EXPECT_EQ(fifos.said(5000), "reducing\n");
  EXPECT_EQ(held.wait_for(std::chrono::milliseconds(20)), std::future_status::timeout);
  fifos.release();
  held.get();
  hook.at(TestPhase::reducing, Seq{3});
  EXPECT_EQ(fifos.said(0), "");
}

TEST(TestHook, HoldsAfterWhatWasProducedHasBeenPosted) {
  const Fifos fifos;
  TestHook hook(("returning:1:" + fifos.path()).c_str());
  hook.posted();
  hook.whenPosted(TestPhase::returning, Seq{1});
  EXPECT_EQ(fifos.said(0), "");
  auto held = std::async(std::launch::async, [&] { hook.posted(); });
  EXPECT_EQ(fifos.said(5000), "returning\n");
  fifos.release();
  held.get();
}

TEST(TestHook, GoesOnWhenNobodyIsLeftToReleaseIt) {
  Fifos fifos;
  TestHook hook(("before:1:" + fifos.path()).c_str());
  auto held = std::async(std::launch::async, [&] { hook.at(TestPhase::before, Seq{1}); });
  EXPECT_EQ(fifos.said(5000), "before\n");
  fifos.letGo();
  EXPECT_EQ(held.wait_for(std::chrono::seconds(5)), std::future_status::ready);
  held.get();
}

}  // namespace
}  // namespace papilio::engine
