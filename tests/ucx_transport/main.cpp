// Own main: settings that UCX reads when it is loaded, and the child's program.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

#include "ucx_transport/lanes.hpp"

int main(int argc, char** argv) {
  // Loaded with this program, so a setting needs a new start (the package sets them in Python).
  if (std::getenv("UCX_MEM_MMAP_HOOK_MODE") == nullptr) {
    setenv("UCX_MEM_MMAP_HOOK_MODE", "none", 1);
    setenv("UCX_LOG_LEVEL", "fatal", 0);
    setenv("UCX_HANDLE_ERRORS", "none", 0);
    execv("/proc/self/exe", argv);
  }
  papilio::ucx::testing::Child::runIfAsked(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
