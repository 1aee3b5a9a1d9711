// Wakes the thread that sleeps in await(). Any thread sends; sent before it sleeps counts too.
#pragma once

#include "core/time.hpp"

namespace papilio::engine {

class Nudge {
 public:
  Nudge();  // throws std::system_error
  ~Nudge();
  Nudge(const Nudge&) = delete;
  Nudge& operator=(const Nudge&) = delete;

  void send() const;
  // Until it is sent, `other` (-1: none) is readable, or `limit` has passed.
  void await(int other, Duration limit) const;

 private:
  int fd_ = -1;
};

}  // namespace papilio::engine
