#include "process_group/membership_python.hpp"

#include <pybind11/stl.h>

#include "core/crc32c.hpp"
#include "process_group/torch_headers.hpp"

namespace papilio::pg {

namespace {

namespace py = pybind11;
using Unlocked = py::call_guard<py::gil_scoped_release>;

std::vector<std::uint32_t> numbers(const ContributorSet& ranks) {
  std::vector<std::uint32_t> out;
  ranks.forEach([&](Rank rank) { out.push_back(rank.value); });
  return out;
}

ContributorSet ranksOf(const py::handle& list, std::size_t size) {
  ContributorSet out;
  for (const auto rank : list.cast<std::vector<std::uint32_t>>()) {
    if (rank >= size) throw py::value_error("papilio: a view names a rank that the group lacks");
    out.insert(Rank{rank});
  }
  return out;
}

py::dict toDict(const Meeting& met) {
  py::dict out;
  out["id"] = met.id.value;
  out["view"] = met.view.value;
  out["step"] = met.boundaries;
  out["records"] = met.records;
  out["absent"] = numbers(met.absent);
  out["fresh"] = numbers(met.fresh);
  out["place"] = met.place;
  return out;
}

Meeting meetingOf(const py::dict& view, std::size_t size) {
  Meeting out;
  out.records = view["records"].cast<std::vector<std::string>>();
  if (out.records.size() != size) throw py::value_error("papilio: a view of another group");
  out.id = GroupId{view["id"].cast<std::uint32_t>()};
  out.view = ViewNumber{view["view"].cast<std::uint32_t>()};
  out.boundaries = view["step"].cast<std::uint64_t>();
  out.absent = ranksOf(view["absent"], size);
  out.fresh = ranksOf(view["fresh"], size);
  out.place = view["place"].cast<std::string>();
  if (out.view == ViewNumber{0}) throw py::value_error("papilio: view 0 cannot be installed");
  return out;
}

// (what, view or None, ranks that were not heard)
py::tuple boundary(BackendPapilio& backend) {
  engine::Boundary answer;
  Meeting next;
  {
    py::gil_scoped_release unlocked;
    answer = backend.boundary();
    if (answer.kind == engine::Boundary::Kind::install) next = backend.following(answer.next);
  }
  using Kind = engine::Boundary::Kind;
  switch (answer.kind) {
    case Kind::pass: return py::make_tuple("pass", py::none(), py::list());
    case Kind::install: return py::make_tuple("install", toDict(next), py::list());
    case Kind::expelled:
      return py::make_tuple("expelled", py::none(), numbers(answer.next.members));
    case Kind::undecided: return py::make_tuple("undecided", py::none(), numbers(answer.silent));
    case Kind::ended: break;
  }
  return py::make_tuple("ended", py::none(), py::list());
}

std::map<std::uint32_t, std::string> install(BackendPapilio& backend, const py::dict& view) {
  Meeting next = meetingOf(view, static_cast<std::size_t>(backend.getSize()));
  py::gil_scoped_release unlocked;
  std::map<std::uint32_t, std::string> out;
  for (const auto& [rank, why] : backend.install(std::move(next))) out.emplace(rank.value, why);
  return out;
}

// CRC32C of a contiguous CPU tensor's bytes, continuing one.
std::uint32_t checksum(const at::Tensor& tensor, std::uint32_t before) {
  TORCH_CHECK_VALUE(tensor.is_contiguous() && tensor.device().is_cpu(),
                    "papilio: a checksum needs a contiguous CPU tensor");
  py::gil_scoped_release unlocked;
  const auto* bytes = static_cast<const std::byte*>(tensor.const_data_ptr());
  return crc32c({bytes, tensor.nbytes()}, before);
}

}  // namespace

void bindMembership(
    py::class_<BackendPapilio, c10::intrusive_ptr<BackendPapilio>, c10d::Backend> backend) {
  using Backend = BackendPapilio;
  backend.def_property_readonly("_alone", &Backend::alone)
      .def_property_readonly("_number", &Backend::number)
      .def_property_readonly("_is_shut_down", &Backend::isShutDown)
      .def_property_readonly("_store", &Backend::store)
      .def_property_readonly("_record", &Backend::record)
      .def("_membership", [](Backend& b) { return toDict(b.membership()); })
      .def(
          "_want",
          [](Backend& b, std::uint32_t rank, const std::string& record) {
            b.want(Joiner{Rank{rank}, record});
          },
          py::arg("rank"), py::arg("record"), Unlocked())
      .def("_meet", &Backend::meetMembers, py::arg("records"), Unlocked())
      .def("_boundary", &boundary)
      .def("_install", &install, py::arg("view"))
      .def("_send_state", &Backend::sendState, py::arg("tensor"), py::arg("to"), py::arg("channel"),
           Unlocked())
      .def("_recv_state", &Backend::recvState, py::arg("tensor"), py::arg("source"),
           py::arg("channel"), Unlocked())
      .def("_train_alone", &Backend::trainAlone)
      .def("_withdraw", &Backend::withdraw, Unlocked());
  backend.def_static("_checksum", &checksum, py::arg("tensor"), py::arg("before") = 0);
}

}  // namespace papilio::pg
