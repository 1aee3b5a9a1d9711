#include "device_lane/round.hpp"

#include <algorithm>

namespace papilio::device {

namespace {

// Parts begin on multiples of this many bytes, so that all accesses are wide.
constexpr std::uint64_t kPartAlign = 256;

}  // namespace

Round::Round(std::shared_ptr<Lane> lane, Shape shape, const std::byte* elements, Stream stream)
    : lane_(std::move(lane)),
      shape_(shape),
      use_(lane_->reserve(shape.bytes(), partElements(2) * elementSize(shape.dtype))),
      nonfinite_(lane_->memory().newFlag()),
      staged_(lane_->memory().newEvent()),
      part_(lane_->memory().newEvent()),
      last_(lane_->memory().newEvent()) {
  stream_ = stream;
  copy(elements, use_.input, shape_.numel, Factor{});
  lane_->memory().scan(shape_.dtype, use_.input, shape_.numel, nonfinite_.get(), stream);
  staged_->record(stream);
}

Round::~Round() {
  if (!released_) release();
}

std::uint64_t Round::partElements(std::uint32_t parts) const {
  const std::uint64_t align = kPartAlign / elementSize(shape_.dtype);
  const std::uint64_t even = (shape_.numel + parts - 1) / parts;
  return (even + align - 1) / align * align;
}

Round::Range Round::partOf(std::size_t index) const {
  const auto each = partElements(static_cast<std::uint32_t>(members_.size()));
  return {std::min(index * each, shape_.numel), std::min((index + 1) * each, shape_.numel)};
}

void Round::release() {
  released_ = true;
  lane_->release(use_, decision_.seq == Seq{} ? std::nullopt : std::optional(decision_.seq),
                 {staged_, last_});
}

void Round::failed(Seq seq) {
  decision_.seq = seq;
  if (step_ == Step::staging || released_) return;
  try {
    last_->record(stream_);  // the memory is in use until then
  } catch (const std::runtime_error&) {
    released_ = true;  // nobody can tell: it stays in use
  }
}

ReferenceTable Round::table() const {
  ReferenceTable out{};
  const auto me = lane_->config().me.value;
  if (me < out.size()) out[me] = lane_->describe(use_, *nonfinite_ != 0);
  return out;
}

void Round::findMembers() {
  const auto bytes = shape_.bytes();
  decision_.contributors.forEach([&](Rank rank) {
    if (rank == lane_->config().me) {
      Reference own;
      own.weight = lane_->config().weight;
      members_.push_back({rank, {use_.input, nullptr, own}});
    } else {
      const auto& row = rank.value < kMaxReferences ? decision_.rows[rank.value] : Reference{};
      const auto fits = [&](std::uint64_t at, std::uint64_t size) {
        return at % Slab::kAlign == 0 && at <= row.size && size <= row.size - at;
      };
      if ((row.flags & Reference::present) == 0 || !fits(row.input, bytes) || !fits(row.part, 0)) {
        throw std::runtime_error("rank " + std::to_string(rank.value) +
                                 " refers to memory that it does not have");
      }
      members_.push_back({rank, lane_->sourceOf(rank, row)});
    }
    members_word_ |= 1ULL << rank.value;
  });
}

// As the average of one: by the time that a stream may be held until this round is over, the device
// has loaded that kernel. (Loading may wait for the stream.)
void Round::copy(const std::byte* from, std::byte* to, std::uint64_t numel, Factor factor) {
  const Input input{from, 1.0F};
  if (numel == 0) return;
  lane_->memory().average(shape_.dtype, {&input, 1}, factor.times, factor.over, numel, to, stream_);
}

void Round::average(Range range, std::byte* out) {
  if (range.start == range.stop) return;
  const auto offset = range.start * elementSize(shape_.dtype);
  std::vector<Input> inputs;
  for (const auto& member : members_) {
    const auto at = member.source.board == nullptr ? 0 : member.source.row.input;
    inputs.push_back({member.source.data + at + offset, member.source.row.weight});
  }
  lane_->memory().average(shape_.dtype, inputs, decision_.factor.times, decision_.factor.over,
                          range.stop - range.start, out, stream_);
}

void Round::begin(const Decision& decision, Factor own, std::byte* out, Stream stream) {
  decision_ = decision;
  own_ = own;
  out_ = out;
  stream_ = stream;
  lane_->decided(decision.seq, decision.contributors);
  if (decision.contributors.empty()) return restore("");
  try {
    findMembers();
  } catch (const OwnerGone& error) {
    return restore(error.what());
  }
  if (shape_.bytes() <= kWholeBytes || members_.size() == 1) {
    average({0, shape_.numel}, out_);
    return finish();
  }
  give_up_ = Clock::now() + kPartPatience;
  step_ = Step::gathering;
  for (std::size_t i = 0; i < members_.size(); ++i) {
    if (members_[i].rank == lane_->config().me) averageOwnPart(i);
  }
}

// Into the memory that others read, and from there into the result.
void Round::averageOwnPart(std::size_t index) {
  const auto range = partOf(index);
  average(range, use_.part);
  part_->record(stream_);
  const auto size = elementSize(shape_.dtype);
  copy(use_.part, out_ + range.start * size, range.stop - range.start, Factor{});
  members_[index].missing = false;
  step_ = Step::averaging;
}

bool Round::stillValid() const {
  return std::all_of(members_.begin(), members_.end(),
                     [](const auto& member) { return member.source.valid(); });
}

void Round::gather() {
  const auto size = elementSize(shape_.dtype);
  const bool late = Clock::now() >= give_up_;
  bool all = true;
  for (std::size_t i = 0; i < members_.size(); ++i) {
    auto& member = members_[i];
    if (!member.missing) continue;
    const auto range = partOf(i);
    const auto bytes = (range.stop - range.start) * size;
    const auto& row = member.source.row;
    if (member.source.board->partDone(decision_.seq, members_word_) &&
        bytes <= row.size - row.part) {
      copy(member.source.data + row.part, out_ + range.start * size, range.stop - range.start,
           Factor{});
    } else if (late) {
      average(range, out_ + range.start * size);
    } else {
      all = false;
      continue;
    }
    member.missing = false;
  }
  if (all) finish();
}

void Round::finish() {
  last_->record(stream_);
  step_ = Step::finishing;
}

void Round::restore(const std::string& why) {
  why_ = why;
  members_.clear();
  if (own_.times == 0.0) {
    lane_->memory().zero(out_, shape_.bytes(), stream_);
  } else {
    copy(use_.input, out_, shape_.numel, own_);
  }
  last_->record(stream_);
  step_ = Step::restoring;
}

Round::State Round::end(State state) {
  step_ = Step::over;
  release();
  return state;
}

Round::State Round::poll() {
  static const char* const kTooLate =
      "this process was stopped for so long that the others had used their memory again";
  switch (step_) {
    case Step::averaging:
      if (!part_->done()) return State::running;
      if (!stillValid()) {
        restore(kTooLate);
        return State::running;
      }
      lane_->board().partDone(decision_.seq, members_word_);
      give_up_ = Clock::now() + kPartPatience;
      step_ = Step::gathering;
      [[fallthrough]];
    case Step::gathering: gather(); return State::running;
    case Step::finishing:
      if (!last_->done()) return State::running;
      if (stillValid()) return end(State::average);
      restore(kTooLate);
      return State::running;
    case Step::restoring: return last_->done() ? end(State::own) : State::running;
    default: return State::running;
  }
}

}  // namespace papilio::device
