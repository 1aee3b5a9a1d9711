# papilio/_C.so: the process_group room, the only one that sees torch. The targets of torch's own
# CMake package want the CUDA toolkit; three shared libraries and two folders are all we need.
papilio_package_folder(torch PAPILIO_TORCH_FOLDER)
execute_process(
  COMMAND "${PAPILIO_PYTHON_EXECUTABLE}" -c
          "import sysconfig; print(sysconfig.get_path('include'))"
  OUTPUT_VARIABLE PAPILIO_PYTHON_INCLUDE OUTPUT_STRIP_TRAILING_WHITESPACE)

# The torch minor that this build is for: in the package, to refuse another one at import, and in the
# command line, so that everything is compiled anew when the package was exchanged.
file(STRINGS "${PAPILIO_TORCH_FOLDER}/include/torch/headeronly/version.h" lines
     REGEX "#define TORCH_VERSION_M(AJOR|INOR) ")
string(REGEX MATCHALL "[0-9]+" numbers "${lines}")
list(JOIN numbers "." PAPILIO_TORCH_MINOR)
set(PAPILIO_CUDA_VERSION "")
if(PAPILIO_CUDA)
  set(PAPILIO_CUDA_VERSION "${CUDAToolkit_VERSION}")
endif()
file(CONFIGURE OUTPUT "${PAPILIO_PYTHON_OUTPUT}/_built.py" CONTENT
     "\"\"\"Made by CMake: what this build is for, and with which CUDA kernels (none: empty).\"\"\"\n\nTORCH = \"${PAPILIO_TORCH_MINOR}\"\nCUDA = \"${PAPILIO_CUDA_VERSION}\"\n")

papilio_publish(process_group)
file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/csrc/process_group/*.cpp")
if(NOT sources)
  return()
endif()
add_library(papilio_C MODULE ${sources})
set_target_properties(papilio_C PROPERTIES
  OUTPUT_NAME _C PREFIX "" LIBRARY_OUTPUT_DIRECTORY "${PAPILIO_PYTHON_OUTPUT}"
  INSTALL_RPATH "$ORIGIN/../torch/lib:$ORIGIN/../libucx/lib"
  BUILD_WITH_INSTALL_RPATH ${PAPILIO_WHEEL}
  BUILD_RPATH "${PAPILIO_TORCH_FOLDER}/lib;${PAPILIO_UCX_FOLDER}/lib")
target_compile_definitions(papilio_C PRIVATE TORCH_EXTENSION_NAME=_C USE_C10D=1 USE_DISTRIBUTED=1
                           PAPILIO_TORCH_MINOR="${PAPILIO_TORCH_MINOR}"
                           PAPILIO_VERSION="${PROJECT_VERSION}")
target_include_directories(papilio_C PRIVATE "${PAPILIO_INCLUDE_ROOT}/process_group")
target_include_directories(papilio_C SYSTEM PRIVATE
  "${PAPILIO_TORCH_FOLDER}/include" "${PAPILIO_TORCH_FOLDER}/include/torch/csrc/api/include"
  "${PAPILIO_PYTHON_INCLUDE}")
target_link_libraries(papilio_C PRIVATE papilio_engine papilio_control papilio_ucx_transport
  papilio_shm_transport papilio_device_lane
  papilio_fault papilio_core Threads::Threads papilio_ucx_libs
  "${PAPILIO_TORCH_FOLDER}/lib/libtorch_python.so" "${PAPILIO_TORCH_FOLDER}/lib/libtorch_cpu.so"
  "${PAPILIO_TORCH_FOLDER}/lib/libc10.so")
target_link_options(papilio_C PRIVATE -Wl,--allow-shlib-undefined)
if(PAPILIO_CUDA)
  # All kernels, called or not, and the runtime within: no library of CUDA is needed to load this, no
  # driver either, and none of the runtime's names meets those of the one that torch brings along.
  target_link_libraries(papilio_C PRIVATE "$<LINK_LIBRARY:WHOLE_ARCHIVE,papilio_cuda>")
  target_compile_definitions(papilio_C PRIVATE PAPILIO_CUDA)
  target_link_options(papilio_C PRIVATE -Wl,--exclude-libs,ALL)
endif()
target_precompile_headers(papilio_C PRIVATE "${CMAKE_SOURCE_DIR}/csrc/process_group/torch_headers.hpp")

# A device without hardware, for tests/python: a module of its own that torch loads, never shipped.
if(NOT PAPILIO_WHEEL)
  file(GLOB fake_device CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tests/process_group/fake_device/*.cpp")
  add_library(papilio_fake_device MODULE ${fake_device})
  set_target_properties(papilio_fake_device PROPERTIES
    PREFIX "" LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests"
    BUILD_RPATH "${PAPILIO_TORCH_FOLDER}/lib")
  target_include_directories(papilio_fake_device PRIVATE "${CMAKE_SOURCE_DIR}/tests"
    "${PAPILIO_INCLUDE_ROOT}/device_lane")
  target_include_directories(papilio_fake_device SYSTEM PRIVATE
    "${PAPILIO_TORCH_FOLDER}/include" "${PAPILIO_TORCH_FOLDER}/include/torch/csrc/api/include"
    "${PAPILIO_PYTHON_INCLUDE}")
  target_compile_definitions(papilio_fake_device PRIVATE USE_C10D=1 USE_DISTRIBUTED=1)
  target_link_libraries(papilio_fake_device PRIVATE Threads::Threads papilio_cuda_twins
    papilio_core
    "${PAPILIO_TORCH_FOLDER}/lib/libtorch_python.so" "${PAPILIO_TORCH_FOLDER}/lib/libtorch_cpu.so"
    "${PAPILIO_TORCH_FOLDER}/lib/libc10.so")
  target_link_options(papilio_fake_device PRIVATE -Wl,--allow-shlib-undefined)
endif()
