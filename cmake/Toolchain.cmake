# Compiler settings of every room.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()

find_program(PAPILIO_CCACHE ccache)
if(PAPILIO_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # The precompiled torch header carries time stamps; ccache may ignore them because the build
  # system already orders header and users.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      ${PAPILIO_CCACHE})
endif()
find_program(PAPILIO_MOLD mold)
if(PAPILIO_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# -ffp-contract=off: a fused multiply-add would make results depend on the processor.
add_compile_options(-Wall -Wextra -Wshadow -Werror -ffp-contract=off)
# g++ 12 warns of correct code of its own standard library when it inlines (PR 105329, 105651).
add_compile_options(-Wno-restrict -Wno-array-bounds -Wno-stringop-overflow)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
  add_compile_options(-Wno-maybe-uninitialized)  # g++ 13: a moved std::variant (PR 80635)
endif()
if(PAPILIO_SANITIZE)
  add_compile_options(-fsanitize=${PAPILIO_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${PAPILIO_SANITIZE})
  add_compile_options(-Wno-maybe-uninitialized)  # with them, of any copied std::optional (PR 105562)
  if(PAPILIO_SANITIZE MATCHES "undefined")
    # Its check of virtual tables reads memory through a pipe: without descriptors, which some tests
    # bring about, it reports good objects.
    add_compile_options(-fno-sanitize=vptr)
  endif()
  if(PAPILIO_SANITIZE MATCHES "thread")
    # The thread sanitizer does not know stand-alone fences; asio's locks order the same accesses.
    add_compile_definitions(ASIO_DISABLE_FENCED_BLOCK)
  endif()
endif()

find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_path(PAPILIO_ASIO_INCLUDE asio.hpp)
if(NOT PAPILIO_ASIO_INCLUDE)
  message(FATAL_ERROR "asio.hpp is missing; install it with: apt-get install -y libasio-dev")
endif()
