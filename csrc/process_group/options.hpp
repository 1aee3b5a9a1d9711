// What a group runs with: papilio.Options as resolved in Python, and the form in which torch
// carries it from a group to the groups split from it.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <chrono>
#include <cstddef>
#include <string>
#include <utility>

#include "fault/options.hpp"

namespace papilio::pg {

// papilio.Options, resolved and validated in Python.
struct Settings {
  fault::GroupOptions group;
  std::string fingerprint;
  std::string interface;
  std::string transport = "auto";
  std::string log_level = "warn";
  std::string hierarchy = "off";
  std::string host_backend;  // adds up tensors on devices within a host; empty: host memory
  std::size_t report_history = 256;
};

struct OptionsPapilio final : c10d::Backend::Options {
  explicit OptionsPapilio(Settings values, std::chrono::milliseconds limit = kBackendDefaultTimeout)
      : Options("papilio", limit), settings(std::move(values)) {}

  c10::intrusive_ptr<Options> clone() const override {
    return c10::make_intrusive<OptionsPapilio>(*this);
  }

  Settings settings;
};

}  // namespace papilio::pg
