#include "process_group/to_python.hpp"

#include <pybind11/stl.h>

namespace papilio::pg {

namespace py = pybind11;

namespace {

py::tuple tupleOf(const ContributorSet& ranks) {
  std::vector<std::uint32_t> out;
  ranks.forEach([&](Rank rank) { out.push_back(rank.value); });
  return py::tuple(py::cast(out));
}

}  // namespace

py::dict toDict(const Settings& settings) {
  const auto& group = settings.group;
  py::dict out;
  out["mode"] = group.mode == fault::Mode::strict ? "strict" : "bounded";
  out["patience"] = toSeconds(group.patience);
  out["fallback"] = group.fallback == fault::Fallback::zero ? "zero" : "local";
  out["slow_strikes"] = group.slow_strikes;
  out["blacklist_seconds"] = toSeconds(group.blacklist_base);
  out["min_peers"] = group.min_peers;
  out["quorum"] = settings.group.quorum == fault::Quorum::live ? "live" : "majority";
  out["weight"] = group.weight;
  out["fingerprint"] = settings.fingerprint;
  out["nonfinite"] = group.nonfinite == fault::NonFinite::propagate ? "propagate" : "drop";
  out["codec"] = std::string(name(group.codec));
  out["integrity"] = group.payload_crc ? "payload" : "header";
  out["transport"] = settings.transport;
  out["interface"] = settings.interface;
  out["hierarchy"] = settings.hierarchy;
  out["host_backend"] = settings.host_backend;
  out["report_history"] = settings.report_history;
  return out;
}

py::dict toDict(const fault::Report& report) {
  py::list chunks;
  for (const auto& chunk : report.chunks) {
    chunks.append(py::make_tuple(chunk.start, chunk.stop, fault::name(chunk.source),
                                 tupleOf(chunk.contributors), chunk.weight));
  }
  py::dict blamed;
  for (const auto& [rank, reason] : report.blamed)
    blamed[py::int_(rank.value)] = fault::name(reason);
  py::dict out;
  out["op"] = std::string(name(report.shape.kind));
  out["reduce_op"] = std::string(name(report.shape.op));
  out["seq"] = report.seq.value;
  out["view"] = report.view.value;
  out["mode"] = report.shape.strict ? "strict" : "bounded";
  out["outcome"] = fault::name(report.outcome);
  out["numel"] = report.shape.numel;
  out["nbytes"] = report.nbytes;
  out["elapsed"] = toSeconds(report.elapsed);
  out["chunks"] = chunks;
  out["blamed"] = blamed;
  out["late"] = tupleOf(report.late);
  out["self_suspect"] = report.self_suspect;
  return out;
}

py::dict toDict(const engine::PeerInfo& peer) {
  py::dict out;
  out["rank"] = peer.rank.value;
  out["state"] = fault::name(peer.state);
  out["incarnation"] = peer.incarnation.value;
  out["lane"] = peer.lane;
  out["address"] = peer.address;
  out["rtt"] = peer.rtt;
  out["goodput"] = peer.goodput;
  out["lag"] = peer.lag;
  out["last_seen"] = peer.last_seen;
  return out;
}

py::dict toDict(const engine::BlacklistInfo& info) {
  py::dict out;
  out["rank"] = info.entry.rank.value;
  out["incarnation"] = info.entry.incarnation.value;
  out["reason"] = fault::name(info.entry.reason);
  out["strikes"] = info.entry.strikes;
  out["since_ago"] = info.since_seconds_ago;
  out["expires_in"] = info.expires_in_seconds;
  return out;
}

py::dict toDict(const std::string& group, const fault::Event& event) {
  py::dict out;
  out["kind"] = fault::name(event.kind);
  out["group"] = group;
  out["rank"] = event.rank.value;
  out["reason"] = fault::name(event.reason);
  out["seq"] = event.seq.value;
  out["detail"] = event.detail;
  return out;
}

}  // namespace papilio::pg
