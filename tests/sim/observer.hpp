// What a simulated node tells the world about itself. Checkers and traces are fed from here.
#pragma once

#include <string>

#include "fault/report.hpp"
#include "sim/network.hpp"

namespace papilio::sim {

struct Finished {
  Seq seq;
  RoundShape shape;
  fault::Report report;
  fault::RoundError error;
  Bytes output;       // the user's tensor (all-gather: all pieces) when the call returned
  Duration active{};  // from entry to return, on the node's own clock
  Instant entered{};
};

class Observer {
 public:
  virtual ~Observer() = default;
  virtual void entered(Rank rank, Seq seq, const RoundShape& shape) = 0;
  virtual void finished(Rank rank, const Finished& round) = 0;
  virtual void noticed(Rank rank, const fault::Event& event) = 0;
  virtual void leaving(Rank rank) = 0;  // of its own accord, after an error
  virtual bool tracing() const = 0;
  virtual void trace(Rank rank, const std::string& line) = 0;
};

}  // namespace papilio::sim
