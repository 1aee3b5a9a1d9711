# The cuda room. The kernel bodies are headers that g++ compiles too: papilio_cuda_twins, and
# cuda_test with it, is there without any toolkit. PAPILIO_CUDA adds the kernels (papilio_cuda)
# and cuda_device_test. See docs/gpu.md.
set(PAPILIO_CUDA_INCLUDE "${PAPILIO_INCLUDE_ROOT}/cuda")
file(MAKE_DIRECTORY "${PAPILIO_CUDA_INCLUDE}")
if(NOT EXISTS "${PAPILIO_CUDA_INCLUDE}/cuda")
  file(CREATE_LINK "${CMAKE_SOURCE_DIR}/cuda" "${PAPILIO_CUDA_INCLUDE}/cuda" SYMBOLIC)
endif()
add_library(papilio_cuda_twins INTERFACE)
target_include_directories(papilio_cuda_twins INTERFACE "${PAPILIO_CUDA_INCLUDE}")
target_link_libraries(papilio_cuda_twins INTERFACE papilio_core)

# Call after the kernels have their target and the rooms theirs.
function(papilio_cuda_tests)
  papilio_tests(cuda ROOMS cuda_twins engine)
  set(oracles "${CMAKE_SOURCE_DIR}/tests/engine/oracle.cpp"
              "${CMAKE_SOURCE_DIR}/tests/engine/codec_oracle.cpp")
  target_sources(cuda_test PRIVATE ${oracles})
  if(TARGET papilio_cuda)
    file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tests/cuda/device/*_test.cpp")
    add_executable(cuda_device_test ${sources} ${oracles})
    target_include_directories(cuda_device_test PRIVATE "${CMAKE_SOURCE_DIR}/tests")
    target_link_libraries(cuda_device_test PRIVATE papilio_cuda papilio_engine GTest::gtest)
    add_executable(cuda_kernel_bench tests/cuda/device/kernel_bench.cpp ${oracles})
    target_include_directories(cuda_kernel_bench PRIVATE "${CMAKE_SOURCE_DIR}/tests")
    target_link_libraries(cuda_kernel_bench PRIVATE papilio_cuda papilio_engine)
  endif()
endfunction()

if(PAPILIO_CUDA)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100)  # and PTX of the last, for what comes after
  endif()
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # Debian's CMake 3.25 does not know nvcc's C++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_RUNTIME_LIBRARY None)  # named below: cudart alone, not the device runtime
  find_package(CUDAToolkit REQUIRED)
  file(GLOB kernels CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/cuda/*.cu")
  add_library(papilio_cuda STATIC ${kernels})
  # In place of g++'s flags. No fused multiply-add; spills and every other warning are errors; the
  # PTX stays, for tools/build_cuda.sh to read.
  file(MAKE_DIRECTORY "${CMAKE_BINARY_DIR}/ptx")
  set_property(TARGET papilio_cuda PROPERTY COMPILE_OPTIONS
    --fmad=false --Werror=all-warnings --Wreorder
    --keep --keep-dir=${CMAKE_BINARY_DIR}/ptx
    -Xptxas=--verbose,--warn-on-spills,--warn-on-local-memory-usage
    -Xcompiler=-Wall,-Wextra,-Wshadow,-Werror,-ffp-contract=off)
  target_link_libraries(papilio_cuda PUBLIC papilio_cuda_twins CUDA::cudart_static
                        papilio_device_lane)
endif()
