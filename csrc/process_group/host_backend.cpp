#include "process_group/host_backend.hpp"

#include <ATen/core/grad_mode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "core/hash.hpp"
#include "process_group/convert.hpp"

namespace papilio::pg {

namespace {
constexpr double kLeastWeight = 1e-30;  // where all weights are 0, the mean is 0 too

float modelNumber(std::uint64_t fingerprint, DType dtype, std::int64_t numel) {
  const auto hash = hashCombine(hashCombine(fingerprint, static_cast<std::uint64_t>(dtype)),
                                static_cast<std::uint64_t>(numel));
  return static_cast<float>(1 + (hash >> 42));  // 22 bits
}
}  // namespace

HostBackend::HostBackend(Config config, Make make)
    : config_(std::move(config)), make_(std::move(make)) {}

HostBackend::Inner HostBackend::inner() {
  {
    std::lock_guard lock(mutex_);
    if (inner_ || !broken_.empty()) return broken_.empty() ? inner_ : nullptr;
  }
  Inner made = make_();  // not under the lock: it may wait for the interpreter's
  std::lock_guard lock(mutex_);
  if (!inner_) inner_ = std::move(made);
  return inner_;
}

std::shared_ptr<HostSum> HostBackend::begin(const at::Tensor& tensor, const RoundShape&) {
  try {
    const Inner backend = inner();
    if (!backend) return nullptr;
    std::shared_ptr<BackendSum> sum(new BackendSum(shared_from_this(), tensor));
    std::vector<at::Tensor> tensors{sum->sums_};
    sum->work_ = backend->allreduce(tensors);
    return sum;
  } catch (const std::exception& error) {
    fail(error.what());
    return nullptr;
  }
}

void HostBackend::fail(const std::string& why) {
  {
    std::lock_guard lock(mutex_);
    if (!broken_.empty()) return;
    broken_ = why;
  }
  TORCH_WARN("papilio: rank ", config_.me.value, ": ", config_.name,
             " between the ranks of this host failed: ", why.substr(0, why.find('\n')),
             ". They take part with their own gradients, which sends more bytes, until the next "
             "change of members");
}

void HostBackend::leave() {
  std::lock_guard lock(mutex_);
  if (broken_.empty()) broken_ = "the group has ended";
}

std::string HostBackend::outOfOrder() const {
  std::lock_guard lock(mutex_);
  return broken_;
}

void HostBackend::end(std::vector<at::Tensor> keep, c10::intrusive_ptr<c10d::Work> work) {
  Inner backend;
  {
    std::lock_guard lock(mutex_);
    backend = inner_;
  }
  // A backend may take long to end what hangs on a device, and writes to `keep` until then.
  std::thread([backend = std::move(backend), keep = std::move(keep), work = std::move(work)] {
    try {
      if (backend) backend->abort();
    } catch (const std::exception& error) {
      TORCH_WARN("papilio: the backend of this host could not be ended: ", error.what());
    }
  }).detach();
}

BackendSum::BackendSum(std::shared_ptr<HostBackend> backend, const at::Tensor& tensor)
    : backend_(std::move(backend)),
      dtype_(dtypeOf(tensor)),
      numel_(tensor.numel()),
      model_(modelNumber(backend_->config().fingerprint, dtype_, numel_)),
      prepared_(tensor.device().type()) {
  const at::NoGradGuard no_grad;
  const auto& config = backend_->config();
  const auto count = static_cast<std::int64_t>(config.members.size());
  const auto me = std::find(config.members.begin(), config.members.end(), config.me);
  const auto sum_type = tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  sums_ = at::zeros({numel_ + 2 * count}, tensor.options().dtype(sum_type).requires_grad(false));
  const auto values = sums_.narrow(0, 0, numel_);
  values.copy_(tensor.detach().view({-1}));
  if (config.weight != 1.0F) values.mul_(config.weight);
  const auto finite = at::isfinite(values).all();
  values.masked_fill_(finite.logical_not(), 0.0);
  sums_.narrow(0, numel_ + (me - config.members.begin()), 1)
      .fill_(config.weight)
      .masked_fill_(finite.logical_not(), -1.0);
  sums_.narrow(0, numel_ + count + (me - config.members.begin()), 1).fill_(model_);
  const c10::impl::VirtualGuardImpl guard(tensor.device().type());
  prepared_.record(guard.getStream(tensor.device()));
}

BackendSum::State BackendSum::fail(const std::string& why) {
  backend_->fail(why);
  backend_->end({sums_}, std::move(work_));
  return State::failed;
}

BackendSum::State BackendSum::look() {
  try {
    if (!work_) return State::failed;
    if (!backend_->outOfOrder().empty()) return fail("");
    if (work_->isCompleted()) {
      if (const auto error = work_->exception()) std::rethrow_exception(error);
      return State::there;
    }
  } catch (const std::exception& error) {
    return fail(error.what());
  }
  const auto now = Clock::now();
  if (!deadline_ && prepared_.query()) deadline_ = now + backend_->config().limit;
  if (!deadline_ || now < *deadline_) return State::running;
  return fail("a sum was not there after " + std::to_string(backend_->config().limit.count()) +
              " ms; a rank of this host is dead, late or issued another collective");
}

// Copies and no kernel: a kernel's first launch loads it, which may wait for a stream that is held
// until this collective ends.
void BackendSum::enqueueCopies(const at::Tensor& host) {
  const at::NoGradGuard no_grad;
  work_->wait();  // it is over: orders streams, for a backend that has one of its own
  const auto onHost = [](const at::Tensor& like) {
    return at::empty(like.sizes(), like.options().device(at::kCPU).pinned_memory(true));
  };
  if (fault::combinedIsSum(dtype_)) {
    values_ = at::Tensor(host).view({-1});
  } else {
    mean_of_ = at::Tensor(host).view({-1});
    values_ = onHost(sums_.narrow(0, 0, numel_));
  }
  const auto tail = sums_.narrow(0, numel_, sums_.numel() - numel_);
  tail_ = onHost(tail);
  values_.copy_(sums_.narrow(0, 0, numel_), /*non_blocking=*/true);
  tail_.copy_(tail, /*non_blocking=*/true);
}

bool BackendSum::copyTo(const at::Tensor& host) {
  try {
    enqueueCopies(host);
    return true;
  } catch (const std::exception& error) {
    fail(error.what());
    return false;
  }
}

bool BackendSum::arrived() {
  if (!mean_of_.defined() || !share().combined()) return true;
  const at::NoGradGuard no_grad;
  const double weight = tail_.narrow(0, 0, tail_.numel() / 2).clamp_min(0.0).sum().item<double>();
  mean_of_.copy_(values_.div_(std::max(weight, kLeastWeight)));
  return true;
}

fault::HostShare BackendSum::share() const {
  fault::HostShare out;
  fault::ReportChunk all;
  all.stop = static_cast<std::uint64_t>(numel_);
  const auto tail = tail_.to(at::kDouble);
  const double* numbers = tail.const_data_ptr<double>();
  const auto& members = backend_->config().members;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const double weight = numbers[i];
    if (numbers[members.size() + i] != static_cast<double>(model_)) return {};
    (weight < 0 ? out.nonfinite : all.contributors).insert(members[i]);
    all.weight += std::max(weight, 0.0);
  }
  if (!all.contributors.empty()) out.ranges.push_back(all);
  return out;
}

}  // namespace papilio::pg
