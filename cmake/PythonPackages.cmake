# UCX and torch come from Python packages; this finds their folders without importing them.
set(PAPILIO_VENV_PYTHON "${CMAKE_SOURCE_DIR}/.venv/bin/python")
if(NOT PAPILIO_PYTHON_EXECUTABLE)
  if(EXISTS "${PAPILIO_VENV_PYTHON}")
    set(PAPILIO_PYTHON_EXECUTABLE "${PAPILIO_VENV_PYTHON}")
  else()
    find_program(PAPILIO_PYTHON_EXECUTABLE NAMES python3 python REQUIRED)
  endif()
endif()

function(papilio_package_folder package out)
  execute_process(
    COMMAND "${PAPILIO_PYTHON_EXECUTABLE}" -c
            "import importlib.util as u; print(u.find_spec('${package}').submodule_search_locations[0])"
    OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed ERROR_QUIET)
  if(failed)
    message(FATAL_ERROR "Python package '${package}' is not installed for "
                        "${PAPILIO_PYTHON_EXECUTABLE}: run `make setup`")
  endif()
  set(${out} "${folder}" PARENT_SCOPE)
endfunction()

if(PAPILIO_UCX)
  papilio_package_folder(libucx PAPILIO_UCX_FOLDER)
  add_library(papilio_ucx_libs INTERFACE)
  target_include_directories(papilio_ucx_libs SYSTEM INTERFACE "${PAPILIO_UCX_FOLDER}/include")
  target_link_libraries(papilio_ucx_libs INTERFACE "${PAPILIO_UCX_FOLDER}/lib/libucp.so.0"
                        "${PAPILIO_UCX_FOLDER}/lib/libucs.so.0")
endif()
