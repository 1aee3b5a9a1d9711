#include "process_group/errors.hpp"

#include <c10/util/Exception.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include <pybind11/stl.h>

namespace papilio::pg {

namespace {

const char* className(fault::ErrorKind kind) {
  switch (kind) {
    case fault::ErrorKind::peer_failed: return "PeerFailed";
    case fault::ErrorKind::schema_mismatch: return "SchemaMismatch";
    case fault::ErrorKind::evicted: return "Evicted";
    case fault::ErrorKind::quorum_lost: return "QuorumLost";
    case fault::ErrorKind::deadline_exceeded: return "DeadlineExceeded";
    default: return "Aborted";
  }
}

const char* whatNext(fault::ErrorKind kind) {
  switch (kind) {
    case fault::ErrorKind::peer_failed:
      return "the group goes on without them where the collective allows it; look at their logs";
    case fault::ErrorKind::schema_mismatch:
      return "compare the model, batch and dtype of this rank with theirs and restart it";
    case fault::ErrorKind::evicted: return "restart this rank";
    case fault::ErrorKind::quorum_lost: return "restart the job or lower min_peers";
    case fault::ErrorKind::deadline_exceeded:
      return "look at the ranks named, or raise the timeout";
    default: return "create the group again to go on";
  }
}

// A Python exception object as a C++ exception that torch restores wherever it surfaces: in wait(),
// in a future, in the autograd engine.
std::exception_ptr pythonException(const char* name, const std::string& text,
                                   const ErrorContext& context, Seq seq,
                                   const fault::RoundError& error) {
  namespace py = pybind11;
  py::gil_scoped_acquire gil;
  std::vector<std::uint32_t> ranks;
  error.ranks.forEach([&](Rank rank) { ranks.push_back(rank.value); });
  py::object type = py::module_::import("papilio._errors").attr(name);
  py::object value = type(text);
  value.attr("ranks") = py::tuple(py::cast(ranks));
  value.attr("reason") = fault::name(error.reason);
  value.attr("mine") = error.mine;
  value.attr("theirs") = error.theirs;
  value.attr("op") = context.op;
  value.attr("seq") = seq.value;
  python_error out;
  out.type = type.release().ptr();
  out.value = value.release().ptr();
  out.message = text;
  return std::make_exception_ptr(out);
}

}  // namespace

std::string errorText(const ErrorContext& context, Seq seq, const fault::RoundError& error) {
  std::string ranks;
  error.ranks.forEach(
      [&](Rank rank) { ranks += (ranks.empty() ? "" : ", ") + std::to_string(rank.value); });
  std::string out = "papilio[rank " + std::to_string(context.rank.value) + "/" +
                    std::to_string(context.size) + " " + context.group + " seq " +
                    std::to_string(seq.value) + "] " + context.op + " failed";
  if (error.kind == fault::ErrorKind::deadline_exceeded) out += ": Timed out ";
  if (!ranks.empty()) out += " because of rank " + ranks;
  if (error.reason != fault::Reason::none) {
    out += std::string(" (") + fault::name(error.reason) + ")";
  }
  if (!error.text.empty()) out += ": " + error.text;
  return out + "; next: " + whatNext(error.kind);
}

std::exception_ptr makeException(const ErrorContext& context, Seq seq,
                                 const fault::RoundError& error) {
  const std::string text = errorText(context, seq, error);
  if (Py_IsInitialized() != 0) {
    try {
      return pythonException(className(error.kind), text, context, seq, error);
    } catch (const std::exception&) {
      // The interpreter is going away; the plain error below still says everything.
    }
  }
  return std::make_exception_ptr(
      c10::DistBackendError({__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, text));
}

}  // namespace papilio::pg
