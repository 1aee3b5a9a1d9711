#include "sim/network.hpp"

#include <algorithm>

namespace papilio::sim {

Network::Network(EventQueue& queue, Random& random, std::uint32_t n)
    : queue_(queue), random_(random), n_(n), links_(n * n), endpoints_(n, nullptr) {}

void Network::sendData(Rank from, Rank to, SharedBytes header, SharedBytes payload,
                       std::function<void()> taken) {
  ++counters_.data;
  DataMessage message{from, std::move(header), std::move(payload), std::move(taken)};
  Direction& d = direction(from, to);
  d.bytes += message.payload->size();
  if (d.broken) return;
  if (d.link.blocked) {
    hold(from, to, [=, this] { carryData(from, to, message); });
  } else {
    carryData(from, to, std::move(message));
  }
}

void Network::sendControl(Rank from, Rank to, Bytes frame) {
  ++counters_.control;
  auto shared = std::make_shared<const Bytes>(std::move(frame));
  Direction& d = direction(from, to);
  if (d.broken) return;
  if (d.link.blocked) {
    hold(from, to, [=, this] { carryControl(from, to, shared); });
  } else {
    carryControl(from, to, std::move(shared));
  }
}

void Network::carryData(Rank from, Rank to, DataMessage message) {
  Direction& d = direction(from, to);
  const Link& link = d.link;
  const double bytes = static_cast<double>(message.header->size() + message.payload->size());
  d.data_free = std::max(d.data_free, queue_.now()) + fromSeconds(bytes / link.bytes_per_second);
  if (random_.chance(link.corrupt_payload) && !message.payload->empty()) {
    message.payload = damaged(message.payload);
    ++counters_.corrupted;
  } else if (random_.chance(link.corrupt_header)) {
    message.header = damaged(message.header);
    ++counters_.corrupted;
  }
  const auto send = [&](const DataMessage& m, Duration after) {
    d.transits.push_back(std::make_shared<Transit>(Transit{m, d.data_free, after}));
    deliver(from, to, d.transits.back());
  };
  while (!d.transits.empty() && d.transits.front()->arrived) d.transits.pop_front();
  send(message, link.latency + random_.upTo(link.jitter));
  if (!random_.chance(link.duplicate)) return;
  ++counters_.duplicated;
  message.taken = nullptr;
  send(message, link.latency * 2 + random_.upTo(link.jitter * 2));
}

void Network::deliver(Rank from, Rank to, const std::shared_ptr<Transit>& transit) {
  queue_.at(transit->leaves + transit->after, [this, from, to, transit] {
    if (transit->arrived || queue_.now() < transit->leaves + transit->after) return;
    transit->arrived = true;
    const DataMessage message = std::move(transit->message);
    if (!direction(from, to).broken) endpoints_[to.value]->arrives(message);
  });
}

void Network::setRate(Rank from, Rank to, double bytes_per_second) {
  Direction& d = direction(from, to);
  const double factor = d.link.bytes_per_second / bytes_per_second;
  const auto then = [&](Instant when) {
    return queue_.now() + fromSeconds(toSeconds(when - queue_.now()) * factor);
  };
  d.link.bytes_per_second = bytes_per_second;
  if (d.data_free > queue_.now()) d.data_free = then(d.data_free);
  for (const auto& transit : d.transits) {
    if (transit->arrived || transit->leaves <= queue_.now()) continue;
    transit->leaves = then(transit->leaves);
    deliver(from, to, transit);
  }
}

void Network::carryControl(Rank from, Rank to, SharedBytes frame) {
  Direction& d = direction(from, to);
  const Instant when =
      queue_.now() + d.link.latency + d.link.control_delay + random_.upTo(d.link.jitter);
  d.control_at = std::max(d.control_at, when);
  queue_.at(d.control_at, [this, from, to, frame] {
    if (!direction(from, to).broken) endpoints_[to.value]->arrivesControl(from, frame);
  });
}

void Network::block(Rank from, Rank to) {
  Direction& d = direction(from, to);
  d.link.blocked = true;
  ++d.blocks;
}

void Network::hold(Rank from, Rank to, std::function<void()> carry) {
  Direction& d = direction(from, to);
  ++counters_.held;
  d.held.push_back(std::move(carry));
  if (d.held.size() > 1) return;
  queue_.after(kBreakAfter, [this, from, to, mine = d.blocks] {
    const Direction& later = direction(from, to);
    if (later.link.blocked && later.blocks == mine) breakConnection(from, to);
  });
}

void Network::unblock(Rank from, Rank to) {
  Direction& d = direction(from, to);
  d.link.blocked = false;
  const auto held = std::move(d.held);
  d.held.clear();
  if (d.broken) return;
  for (const auto& carry : held) carry();
}

void Network::breakConnection(Rank a, Rank b) {
  ++counters_.broken;
  for (Direction* d : {&direction(a, b), &direction(b, a)}) {
    d->broken = true;
    d->held.clear();
  }
  endpoints_[a.value]->connectionLost(b);
  endpoints_[b.value]->connectionLost(a);
}

SharedBytes Network::damaged(const SharedBytes& bytes) {
  Bytes copy = *bytes;
  const auto bit = random_.between(0, copy.size() * 8 - 1);
  copy[bit / 8] ^= std::byte{1} << (bit % 8);
  return std::make_shared<const Bytes>(std::move(copy));
}

}  // namespace papilio::sim
