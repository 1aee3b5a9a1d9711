// Python module papilio._C. Everything a user sees is wrapped once more in papilio/*.py.
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include <pybind11/chrono.h>
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include "process_group/backend.hpp"
#include "process_group/to_python.hpp"

namespace papilio::pg {
namespace {

namespace py = pybind11;

void bindSettings(py::module_& m) {
  py::class_<Settings>(m, "Settings")
      .def(py::init<>())
      .def_readwrite("fingerprint", &Settings::fingerprint)
      .def_readwrite("interface", &Settings::interface)
      .def_readwrite("transport", &Settings::transport)
      .def_readwrite("log_level", &Settings::log_level)
      .def_readwrite("report_history", &Settings::report_history)
      .def("set_mode",
           [](Settings& s, bool strict) {
             s.group.mode = strict ? fault::Mode::strict : fault::Mode::bounded;
           })
      .def("set_patience", [](Settings& s, double v) { s.group.patience = fromSeconds(v); })
      .def("set_fallback_zero",
           [](Settings& s, bool zero) {
             s.group.fallback = zero ? fault::Fallback::zero : fault::Fallback::local;
           })
      .def("set_slow_strikes", [](Settings& s, std::uint32_t v) { s.group.slow_strikes = v; })
      .def("set_blacklist_seconds",
           [](Settings& s, double v) { s.group.blacklist_base = fromSeconds(v); })
      .def("set_min_peers", [](Settings& s, std::uint32_t v) { s.group.min_peers = v; })
      .def("set_weight", [](Settings& s, float v) { s.group.weight = v; })
      .def("set_nonfinite_propagate",
           [](Settings& s, bool propagate) {
             s.group.nonfinite = propagate ? fault::NonFinite::propagate : fault::NonFinite::drop;
           })
      .def("set_payload_crc", [](Settings& s, bool v) { s.group.payload_crc = v; });
}

c10::intrusive_ptr<BackendPapilio> create(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                          int size, const std::string& name,
                                          const Settings& settings,
                                          std::chrono::milliseconds timeout,
                                          const py::object& on_event) {
  EventHandler handler;
  if (!on_event.is_none()) {
    // A Python object must be released under the interpreter lock, whoever drops it last.
    auto callable = std::shared_ptr<py::object>(new py::object(on_event), [](py::object* object) {
      if (Py_IsInitialized() == 0) return;
      py::gil_scoped_acquire gil;
      delete object;
    });
    handler = [callable](const std::string& group, const fault::Event& event) {
      if (Py_IsInitialized() == 0) return;
      py::gil_scoped_acquire gil;
      try {
        (*callable)(toDict(group, event));
      } catch (py::error_already_set& error) {
        error.discard_as_unraisable("papilio event handler");
      }
    };
  }
  py::gil_scoped_release unlocked;
  return c10::make_intrusive<BackendPapilio>(store, rank, size, name, settings, timeout,
                                             std::move(handler));
}

py::list reportList(BackendPapilio& backend, std::size_t last) {
  std::vector<fault::Report> reports;
  {
    py::gil_scoped_release unlocked;
    reports = backend.group().reports(last);
  }
  py::list out;
  for (const auto& report : reports) out.append(toDict(report));
  return out;
}

template <class List>
py::list dictList(const List& items) {
  py::list out;
  for (const auto& item : items) out.append(toDict(item));
  return out;
}

void bindBackend(py::module_& m) {
  using Backend = BackendPapilio;
  py::class_<Backend, c10::intrusive_ptr<Backend>, c10d::Backend>(m, "Backend")
      .def("_reports", &reportList, py::arg("last"))
      .def("_peers",
           [](Backend& b) {
             std::vector<engine::PeerInfo> peers;
             {
               py::gil_scoped_release unlocked;
               peers = b.group().peers();
             }
             return dictList(peers);
           })
      .def("_blacklist",
           [](Backend& b) {
             std::vector<engine::BlacklistInfo> entries;
             {
               py::gil_scoped_release unlocked;
               entries = b.group().blacklist();
             }
             return dictList(entries);
           })
      .def(
          "_ban",
          [](Backend& b, std::uint32_t rank, const std::string& reason,
             std::optional<double> seconds) {
            std::optional<Duration> term;
            if (seconds) term = fromSeconds(*seconds);
            b.group().ban(Rank{rank}, reason, term);
          },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "_unban", [](Backend& b, std::uint32_t rank) { b.group().unban(Rank{rank}); },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "_stats", [](Backend& b) { return b.group().stats(); },
          py::call_guard<py::gil_scoped_release>())
      .def("_engine_stats", &Backend::engineStats, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("_group_name", &Backend::name);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Papilio's process group for torch.distributed";
  m.attr("torch_version") = TORCH_VERSION;
  m.def("versions", &versions);
  // papilio's exceptions travel as python_error; restore them where pybind translates.
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (python_error& error) {
      error.restore();
    }
  });
  bindSettings(m);
  bindBackend(m);
  m.def("create", &create, py::arg("store"), py::arg("rank"), py::arg("size"), py::arg("name"),
        py::arg("settings"), py::arg("timeout"), py::arg("on_event"));
  m.def("work_report", [](const c10::intrusive_ptr<c10d::Work>& work) -> py::object {
    const auto* ours = dynamic_cast<const WorkPapilio*>(work.get());
    if (ours == nullptr) {
      throw py::type_error("papilio.report() needs a Work that papilio returned");
    }
    const auto report = ours->report();
    return report ? py::object(toDict(*report)) : py::object(py::none());
  });
  m.def("shutdown_all", &BackendPapilio::shutdownAll, py::call_guard<py::gil_scoped_release>());
  m.def("set_mode_override", [](int value) {
    const int before = static_cast<int>(modeOverride());
    modeOverride() = static_cast<ModeOverride>(value);
    return before;
  });
}

}  // namespace papilio::pg
