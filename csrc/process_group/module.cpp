// Python module papilio._C. Everything a user sees is wrapped once more in papilio/*.py.
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include <pybind11/chrono.h>
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include "engine/deadlines.hpp"
#include "process_group/backend.hpp"
#include "process_group/membership_python.hpp"
#include "process_group/to_python.hpp"

namespace papilio::pg {
namespace {

namespace py = pybind11;

Codec codecNamed(const std::string& wanted) {
  for (const Codec codec : {Codec::raw, Codec::bf16, Codec::fp16, Codec::int8}) {
    if (wanted == name(codec)) return codec;
  }
  throw py::value_error("papilio: unknown codec " + wanted);
}

void bindSettings(py::module_& m) {
  py::class_<Settings>(m, "Settings")
      .def(py::init<>())
      .def_readwrite("fingerprint", &Settings::fingerprint)
      .def_readwrite("interface", &Settings::interface)
      .def_readwrite("transport", &Settings::transport)
      .def_readwrite("log_level", &Settings::log_level)
      .def_readwrite("hierarchy", &Settings::hierarchy)
      .def_readwrite("host_backend", &Settings::host_backend)
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
      .def("set_quorum_majority",
           [](Settings& s, bool majority) {
             s.group.quorum = majority ? fault::Quorum::majority : fault::Quorum::live;
           })
      .def("set_min_peers", [](Settings& s, std::uint32_t v) { s.group.min_peers = v; })
      .def("set_weight", [](Settings& s, float v) { s.group.weight = v; })
      .def("set_nonfinite_propagate",
           [](Settings& s, bool propagate) {
             s.group.nonfinite = propagate ? fault::NonFinite::propagate : fault::NonFinite::drop;
           })
      .def("set_codec",
           [](Settings& s, const std::string& name) { s.group.codec = codecNamed(name); })
      .def("set_payload_crc", [](Settings& s, bool v) { s.group.payload_crc = v; })
      .def("as_dict", [](const Settings& s) { return toDict(s); });
}

// papilio.Options where torch wants its own options (split_group, merge_remote_group).
PyObject* fromOptions(PyObject* given, PyTypeObject* /*wanted*/) {
  const py::module_ options = py::module_::import("papilio._options");
  if (!py::isinstance(given, options.attr("Options"))) return nullptr;
  return options.attr("to_native")(py::handle(given)).release().ptr();
}

void bindOptions(py::module_& m) {
  using Options = OptionsPapilio;
  py::class_<Options, c10::intrusive_ptr<Options>, c10d::Backend::Options>(m, "Options")
      .def(py::init<Settings, std::chrono::milliseconds>(), py::arg("settings"),
           py::arg("timeout") = kBackendDefaultTimeout)
      .def_readonly("settings", &Options::settings)
      .def_readonly("timeout", &Options::timeout)
      .def("__copy__", [](const Options& o) { return c10::make_intrusive<Options>(o); })
      .def("__deepcopy__", [](const Options& o, const py::object& /*memo*/) {
        return c10::make_intrusive<Options>(o);
      });
  auto* info = py::detail::get_type_info(typeid(c10d::Backend::Options));
  if (info == nullptr) throw py::import_error("torch does not know its Backend.Options");
  info->implicit_conversions.push_back(fromOptions);
}

// A Python object must be released under the interpreter lock, whoever drops it last.
std::shared_ptr<py::object> shared(const py::object& object) {
  return {new py::object(object), [](py::object* last) {
            if (Py_IsInitialized() == 0) return;
            py::gil_scoped_acquire gil;
            delete last;
          }};
}

Listeners listenersOf(const py::object& on_event, const py::object& on_group,
                      const py::object& make_host_backend) {
  Listeners out;
  if (!on_event.is_none()) {
    out.on_event = [callable = shared(on_event)](const std::string& group,
                                                 const fault::Event& event) {
      if (Py_IsInitialized() == 0) return;
      py::gil_scoped_acquire gil;
      try {
        (*callable)(toDict(group, event));
      } catch (py::error_already_set& error) {
        error.discard_as_unraisable("papilio event handler");
      }
    };
  }
  if (!on_group.is_none()) {
    out.on_group = [callable = shared(on_group)](const c10::intrusive_ptr<BackendPapilio>& group) {
      py::gil_scoped_acquire gil;
      (*callable)(group);
    };
  }
  if (!make_host_backend.is_none()) {
    out.make_host_backend = [callable = shared(make_host_backend)](const std::string& name,
                                                                   const std::string& key, int rank,
                                                                   int size) {
      py::gil_scoped_acquire gil;
      return (*callable)(name, key, rank, size).cast<c10::intrusive_ptr<c10d::Backend>>();
    };
  }
  return out;
}

c10::intrusive_ptr<BackendPapilio> create(
    const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, const std::string& name,
    const Settings& settings, std::chrono::milliseconds timeout, bool deferred, bool rejoin,
    const py::object& on_event, const py::object& on_group, const py::object& make_host_backend) {
  auto listeners = listenersOf(on_event, on_group, make_host_backend);
  py::gil_scoped_release unlocked;
  auto backend = BackendPapilio::atStore(*store, rank, size, name, settings, timeout,
                                         std::move(listeners), deferred, rejoin);
  backend->keepStore(store);
  return backend;
}

py::list reportList(BackendPapilio& backend, std::size_t last) {
  std::vector<fault::Report> reports;
  {
    py::gil_scoped_release unlocked;
    reports = backend.group()->reports(last);
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

// What python -m papilio.top shows of this process.
py::list openGroups() {
  struct Seen {
    BackendPapilio::Glance glance;
    std::vector<engine::PeerInfo> peers;
    std::vector<engine::BlacklistInfo> blacklist;
    engine::StatsMap stats;
    std::vector<fault::Report> reports;
  };
  std::vector<Seen> seen;
  {
    py::gil_scoped_release unlocked;
    for (auto& glance : BackendPapilio::openGroups()) {
      Seen item;
      if (const auto group = glance.group) {
        item.peers = group->peers();
        item.blacklist = group->blacklist();
        item.stats = group->stats();
        item.reports = group->reports(1);
      }
      item.glance = std::move(glance);
      seen.push_back(std::move(item));
    }
  }
  py::list out;
  for (const Seen& item : seen) {
    py::dict entry;
    entry["name"] = item.glance.name;
    entry["rank"] = item.glance.rank;
    entry["size"] = item.glance.size;
    entry["peers"] = dictList(item.peers);
    entry["blacklist"] = dictList(item.blacklist);
    entry["stats"] = item.stats;
    entry["engine"] = item.glance.engine;
    entry["reports"] = dictList(item.reports);
    out.append(std::move(entry));
  }
  return out;
}

py::class_<BackendPapilio, c10::intrusive_ptr<BackendPapilio>, c10d::Backend> bindBackend(
    py::module_& m) {
  using Backend = BackendPapilio;
  return py::class_<Backend, c10::intrusive_ptr<Backend>, c10d::Backend>(m, "Backend")
      .def("_reports", &reportList, py::arg("last"))
      .def("_peers",
           [](Backend& b) {
             std::vector<engine::PeerInfo> peers;
             {
               py::gil_scoped_release unlocked;
               peers = b.group()->peers();
             }
             return dictList(peers);
           })
      .def("_blacklist",
           [](Backend& b) {
             std::vector<engine::BlacklistInfo> entries;
             {
               py::gil_scoped_release unlocked;
               entries = b.group()->blacklist();
             }
             return dictList(entries);
           })
      .def(
          "_ban",
          [](Backend& b, std::uint32_t rank, const std::string& reason,
             std::optional<double> seconds) {
            std::optional<Duration> term;
            if (seconds) term = fromSeconds(*seconds);
            b.group()->ban(Rank{rank}, reason, term);
          },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "_unban", [](Backend& b, std::uint32_t rank) { b.group()->unban(Rank{rank}); },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "_stats", [](Backend& b) { return b.group()->stats(); },
          py::call_guard<py::gil_scoped_release>())
      .def("_engine_stats", &Backend::engineStats, py::call_guard<py::gil_scoped_release>())
      // torch calls it on ranks outside a new group, for backends whose split needs everybody.
      .def("perform_nocolor_split", [](Backend&, const py::object& /*device*/) {})
      .def_property_readonly("_settings", &Backend::settings)
      .def_property_readonly("_generation", &Backend::generation)
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
  bindOptions(m);
  bindMembership(bindBackend(m));
  m.def("create", &create, py::arg("store"), py::arg("rank"), py::arg("size"), py::arg("name"),
        py::arg("settings"), py::arg("timeout"), py::arg("deferred"), py::arg("rejoin"),
        py::arg("on_event"), py::arg("on_group"), py::arg("make_host_backend"));
  m.def("work_report", [](const c10::intrusive_ptr<c10d::Work>& work) -> py::object {
    const auto* ours = dynamic_cast<const WorkPapilio*>(work.get());
    if (ours == nullptr) {
      throw py::type_error("papilio.report() needs a Work that papilio returned");
    }
    const auto report = ours->report();
    return report ? py::object(toDict(*report)) : py::object(py::none());
  });
  // For a device that papilio was not built for, by a module that knows it.
  m.def("register_device_memory", [](const std::string& device, const py::capsule& memory) {
    registerDeviceMemory(c10::Device(device).type(), memory.get_pointer<device::DeviceMemory>());
  });
  m.def("deadlines",
        [](const Settings& settings) { return engine::describeDeadlines(settings.group); });
  m.def("open_groups", &openGroups);
  m.def("open_group_count", &BackendPapilio::openGroupCount,
        py::call_guard<py::gil_scoped_release>());
  m.def("shutdown_all", &BackendPapilio::shutdownAll, py::call_guard<py::gil_scoped_release>());
  m.def("set_mode_override", [](int value) {
    const int before = static_cast<int>(modeOverride());
    modeOverride() = static_cast<ModeOverride>(value);
    return before;
  });
}

}  // namespace papilio::pg
