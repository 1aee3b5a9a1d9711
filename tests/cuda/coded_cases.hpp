// Random rounds of a reducer with a codec, and what the engine's host kernels make of them.
#pragma once

#include <cstring>

#include "cuda/cases.hpp"
#include "engine/codec.hpp"
#include "engine/codec_oracle.hpp"

namespace papilio::cuda::testing {

struct Form {
  Codec codec;
  DType dtype;
};
inline constexpr Form kForms[] = {{Codec::bf16, DType::float32},
                                  {Codec::fp16, DType::float32},
                                  {Codec::int8, DType::float32},
                                  {Codec::int8, DType::bfloat16},
                                  {Codec::int8, DType::float16}};

inline Bytes encodedByTheEngine(const Form& form, const Bytes& tensor, std::uint64_t numel) {
  Bytes out(payloadBytes(form.codec, elementSize(form.dtype), numel), std::byte{0xee});
  engine::encode(form.codec, form.dtype, tensor.data(), numel, out.data());
  return out;
}

struct CodedCase {
  Form form{};
  std::uint64_t numel = 0;
  unsigned own = 0;  // member that is a tensor; their number: none
  std::vector<Bytes> inputs;
  std::vector<float> weights;
  double times = 1.0;
  double over = 1.0;

  // The encoded average, and whether something in it is not finite.
  std::pair<Bytes, bool> expected() const {
    std::vector<engine::CodedInput> in;
    for (unsigned k = 0; k < inputs.size(); ++k) {
      in.push_back({inputs[k].data(), weights[k], k != own});
    }
    Bytes out(payloadBytes(form.codec, elementSize(form.dtype), numel));
    bool bad = false;
    engine::reduceCoded(form.codec, form.dtype, in, numel, {times, over}, out.data(), &bad);
    return {out, bad};
  }
};

template <class Random>
CodedCase randomCoded(const Form& form, std::uint64_t numel, unsigned members, Random& random) {
  const Case plain = randomCase(form.dtype, numel, members, random);
  CodedCase made{form,      numel,         static_cast<unsigned>(random() % (members + 1)),
                 {},        plain.weights, plain.times,
                 plain.over};
  for (unsigned k = 0; k < members; ++k) {
    const auto tensor = random() % 4 == 0 ? engine::testing::randomMagnitudes(
                                                form.dtype, numel, static_cast<unsigned>(random()))
                                          : plain.inputs[k];
    made.inputs.push_back(k == made.own ? tensor : encodedByTheEngine(form, tensor, numel));
  }
  return made;
}

// Index of the first difference of two encoded chunks, or their size; any NaN equals any NaN.
inline std::uint64_t codedDifference(const Form& form, const Bytes& a, const Bytes& b,
                                     std::uint64_t numel) {
  const std::size_t head = form.codec == Codec::bf16 ? 0 : scaleBytes(numel);
  for (std::size_t i = 0; i < head; ++i) {
    if (a[i] != b[i]) return i;
  }
  if (form.codec == Codec::int8) {
    return static_cast<std::uint64_t>(std::mismatch(a.begin(), a.end(), b.begin()).first -
                                      a.begin());
  }
  const auto type = form.codec == Codec::bf16 ? DType::bfloat16 : DType::float16;
  return head + engine::testing::firstDifference(type, a.data() + head, b.data() + head, numel) * 2;
}

}  // namespace papilio::cuda::testing
