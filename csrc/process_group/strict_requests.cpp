#include "process_group/strict_requests.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>

#include "engine/kernels.hpp"

namespace papilio::pg {

using engine::StrictPhase;
using engine::StrictRequest;

namespace {

using Scratch = std::shared_ptr<std::vector<std::byte>>;

Scratch makeScratch(std::uint64_t bytes) { return std::make_shared<std::vector<std::byte>>(bytes); }

StrictRequest requestFor(const RoundShape& shape, std::uint64_t nbytes) {
  StrictRequest out;
  out.shape = shape;
  out.shape.strict = true;
  out.shape.fingerprint = 0;
  out.nbytes = nbytes;
  return out;
}

void copyBytes(std::byte* to, const std::byte* from, std::uint64_t bytes) {
  if (bytes != 0 && to != from) std::memmove(to, from, bytes);
}

bool overlap(Buffer a, Buffer b) {
  const std::less<const std::byte*> before;
  return a.bytes != 0 && b.bytes != 0 && before(a.data, b.data + b.bytes) &&
         before(b.data, a.data + a.bytes);
}

// Blocks are sent while others arrive: an input that lies where an output will be, other than
// exactly in its own place, is sent from a copy. The scratch has to live as long as the request.
Scratch sparedFrom(const std::vector<Buffer>& outputs, std::vector<Buffer>& inputs) {
  bool clash = false;
  std::uint64_t total = 0;
  for (const auto& input : inputs) {
    total += input.bytes;
    for (const auto& output : outputs) clash = clash || overlap(input, output);
  }
  if (!clash) return nullptr;
  auto copies = makeScratch(total);
  std::byte* at = copies->data();
  for (auto& input : inputs) {
    copyBytes(at, input.data, input.bytes);
    input.data = at;
    at += input.bytes;
  }
  return copies;
}

// The same for one input, which may lie in its own place.
Scratch sparedFrom(const std::vector<Buffer>& outputs, Buffer own, Buffer& input) {
  if (input.data == own.data && input.bytes == own.bytes) return nullptr;
  std::vector<Buffer> inputs{input};
  auto copy = sparedFrom(outputs, inputs);
  input = inputs[0];
  return copy;
}

// Reduces the members' pieces, which lie one after the other in `pieces`, own one in `mine`.
void reduceMembers(Ring ring, const RoundShape& shape, const ContributorSet& members,
                   const std::byte* pieces, std::uint64_t piece_bytes, std::uint64_t numel,
                   const std::byte* mine, std::byte* out) {
  std::vector<const std::byte*> inputs;
  members.forEach([&](Rank rank) {
    inputs.push_back(rank.value == ring.rank ? mine : pieces + rank.value * piece_bytes);
  });
  engine::reduceStrict(shape.dtype, shape.op, inputs, numel, shape.premul, out);
}

StrictRequest directAllreduce(Ring ring, const RoundShape& shape, Buffer tensor) {
  StrictRequest out = requestFor(shape, tensor.bytes);
  // The tensor is written before the slowest peer has taken its copy: send from a copy.
  auto input = makeScratch(tensor.bytes);
  auto theirs = makeScratch(tensor.bytes * ring.size);
  copyBytes(input->data(), tensor.data, tensor.bytes);
  StrictPhase phase;
  for (std::uint32_t r = 0; r < ring.size; ++r) {
    phase.pieces.push_back(
        {input->data(), tensor.bytes, theirs->data() + r * tensor.bytes, tensor.bytes});
  }
  phase.then = [=](const ContributorSet& members) {
    reduceMembers(ring, shape, members, theirs->data(), tensor.bytes, shape.numel, input->data(),
                  tensor.data);
  };
  out.phases.push_back(std::move(phase));
  return out;
}

// Shard k of a tensor belongs to the k-th member.
struct Shards {
  std::uint64_t numel = 0;
  std::uint64_t element = 0;  // bytes
  std::uint64_t each = 0;     // elements; the last ones may have fewer

  Shards(const RoundShape& shape, std::uint32_t members)
      : numel(shape.numel),
        element(elementSize(shape.dtype)),
        each((shape.numel + members - 1) / members) {}
  std::uint64_t start(std::uint64_t k) const { return std::min(k * each, numel); }
  std::uint64_t count(std::uint64_t k) const { return start(k + 1) - start(k); }
  std::uint64_t startBytes(std::uint64_t k) const { return start(k) * element; }
  std::uint64_t bytes(std::uint64_t k) const { return count(k) * element; }
};

struct ShardedMemory {
  Scratch input;   // the tensor as it was
  Scratch theirs;  // the members' pieces of the own shard
  Scratch result;  // reaches the tensor when all of it is there
};

std::vector<StrictPhase> shardedPhases(Ring ring, const RoundShape& shape, Buffer tensor,
                                       const ShardedMemory& memory, const ContributorSet& members) {
  const Shards shards(shape, members.count());
  const auto all = members.ranks();
  const auto own =
      static_cast<std::uint64_t>(std::find(all.begin(), all.end(), Rank{ring.rank}) - all.begin());
  const std::uint64_t mine = shards.bytes(own);
  std::byte* my_input = memory.input->data() + shards.startBytes(own);
  std::byte* my_result = memory.result->data() + shards.startBytes(own);
  StrictPhase scatter;
  StrictPhase gather;
  scatter.pieces.resize(ring.size);
  gather.pieces.resize(ring.size);
  for (std::uint64_t k = 0; k < all.size(); ++k) {
    const std::uint32_t rank = all[k].value;
    scatter.pieces[rank] = {memory.input->data() + shards.startBytes(k), shards.bytes(k),
                            memory.theirs->data() + k * mine, mine};
    gather.pieces[rank] = {my_result, mine, memory.result->data() + shards.startBytes(k),
                           shards.bytes(k)};
  }
  scatter.then = [=](const ContributorSet&) {  // a member that died since has given its piece
    std::vector<const std::byte*> inputs;
    for (std::uint64_t k = 0; k < all.size(); ++k) {
      inputs.push_back(k == own ? my_input : memory.theirs->data() + k * mine);
    }
    engine::reduceStrict(shape.dtype, shape.op, inputs, shards.count(own), shape.premul, my_result);
  };
  gather.then = [=](const ContributorSet&) {
    copyBytes(tensor.data, memory.result->data(), tensor.bytes);
  };
  return {std::move(scatter), std::move(gather)};
}

StrictRequest shardedAllreduce(Ring ring, const RoundShape& shape, Buffer tensor) {
  StrictRequest out = requestFor(shape, tensor.bytes);
  // Enough for every number of members; the progress thread must not wait for pages.
  const std::uint64_t padding = ring.size * elementSize(shape.dtype);
  const ShardedMemory memory{makeScratch(tensor.bytes), makeScratch(tensor.bytes + padding),
                             makeScratch(tensor.bytes)};
  copyBytes(memory.input->data(), tensor.data, tensor.bytes);
  out.plan = [=](const ContributorSet& members) {
    return shardedPhases(ring, shape, tensor, memory, members);
  };
  return out;
}

}  // namespace

StrictRequest strictAllreduce(Ring ring, const RoundShape& shape, Buffer tensor) {
  return tensor.bytes <= kDirectBytes ? directAllreduce(ring, shape, tensor)
                                      : shardedAllreduce(ring, shape, tensor);
}

namespace {

void answerAlone(const std::vector<StrictPhase::Piece>& pieces) {
  for (const auto& wanted : pieces) {
    if (wanted.recv == nullptr) continue;
    const auto own = std::find_if(pieces.begin(), pieces.end(), [&](const auto& piece) {
      return piece.send != nullptr && piece.send_bytes == wanted.recv_bytes;
    });
    if (own != pieces.end()) copyBytes(wanted.recv, own->send, wanted.recv_bytes);
  }
}

}  // namespace

StrictRequest answeredAlone(StrictRequest request) {
  request.shape.strict = true;
  request.needs_all = false;
  request.needed = {};
  if (request.shape.kind == OpKind::broadcast && !request.phases.empty()) {
    const auto size = request.phases[0].pieces.size();  // the tensor stays as it is
    request.phases.assign(1, StrictPhase{std::vector<StrictPhase::Piece>(size), nullptr});
  }
  for (auto& phase : request.phases) {
    const auto pieces =
        std::exchange(phase.pieces, std::vector<StrictPhase::Piece>(phase.pieces.size()));
    // A phase that only receives has nothing to receive: its output stays as it is.
    const bool sends = std::any_of(pieces.begin(), pieces.end(),
                                   [](const auto& piece) { return piece.send != nullptr; });
    phase.then = [pieces, sends, then = std::move(phase.then)](const ContributorSet& members) {
      answerAlone(pieces);
      if (then && sends) then(members);
    };
  }
  return request;
}

StrictRequest strictBroadcast(Ring ring, const RoundShape& shape, Buffer tensor) {
  StrictRequest out = requestFor(shape, tensor.bytes);
  out.needed.insert(Rank{shape.root});
  StrictPhase phase;
  phase.pieces.resize(ring.size);
  if (ring.rank == shape.root) {
    for (auto& piece : phase.pieces) piece = {tensor.data, tensor.bytes, nullptr, 0};
  } else {
    auto received = makeScratch(tensor.bytes);  // an error must not leave the tensor torn
    phase.pieces[shape.root] = {nullptr, 0, received->data(), tensor.bytes};
    phase.then = [=](const ContributorSet&) {
      copyBytes(tensor.data, received->data(), tensor.bytes);
    };
  }
  out.phases.push_back(std::move(phase));
  return out;
}

StrictRequest tolerantBroadcast(Ring ring, const RoundShape& shape, Buffer tensor) {
  StrictRequest out = requestFor(shape, tensor.bytes);
  out.shape.strict = false;
  const bool root = ring.rank == shape.root;
  auto received = makeScratch(root ? 0 : tensor.bytes);
  std::byte* into = root ? nullptr : received->data();
  const std::uint64_t expected = root ? 0 : tensor.bytes;
  const std::byte* from = root ? tensor.data : received->data();
  StrictPhase handed_on;
  StrictPhase own;
  for (std::uint32_t r = 0; r < ring.size; ++r) {
    handed_on.pieces.push_back({from, tensor.bytes, into, expected});
    own.pieces.push_back({tensor.data, tensor.bytes, into, expected});
  }
  handed_on.then = [=](const ContributorSet&) {
    copyBytes(tensor.data, received->data(), expected);
  };
  out.phases.push_back(std::move(handed_on));
  out.phases.push_back(std::move(own));
  return out;
}

StrictRequest strictAllgather(Ring ring, const RoundShape& shape, Buffer input,
                              const std::vector<Buffer>& outputs) {
  StrictRequest out = requestFor(shape, input.bytes);
  out.needs_all = true;
  const Buffer own = outputs[ring.rank];
  auto copy = sparedFrom(outputs, own, input);
  StrictPhase phase;
  for (const auto& output : outputs) {
    phase.pieces.push_back({input.data, input.bytes, output.data, output.bytes});
  }
  phase.then = [=](const ContributorSet&) {  // also keeps the copy alive
    (void)copy;
    copyBytes(own.data, input.data, input.bytes);
  };
  out.phases.push_back(std::move(phase));
  return out;
}

StrictRequest strictGather(Ring ring, const RoundShape& shape, Buffer input,
                           const std::vector<Buffer>& outputs) {
  StrictRequest out = requestFor(shape, input.bytes);
  out.needs_all = true;
  StrictPhase phase;
  phase.pieces.resize(ring.size);
  if (ring.rank == shape.root) {
    for (std::uint32_t r = 0; r < ring.size; ++r) {
      phase.pieces[r] = {nullptr, 0, outputs[r].data, outputs[r].bytes};
    }
    const Buffer own = outputs[ring.rank];
    auto copy = sparedFrom(outputs, own, input);
    phase.then = [=](const ContributorSet&) {
      (void)copy;
      copyBytes(own.data, input.data, input.bytes);
    };
  } else {
    phase.pieces[shape.root] = {input.data, input.bytes, nullptr, 0};
  }
  out.phases.push_back(std::move(phase));
  return out;
}

StrictRequest strictScatter(Ring ring, const RoundShape& shape, Buffer output,
                            std::vector<Buffer> inputs) {
  StrictRequest out = requestFor(shape, output.bytes);
  out.needed.insert(Rank{shape.root});
  StrictPhase phase;
  phase.pieces.resize(ring.size);
  if (ring.rank == shape.root) {
    const bool in_place = inputs[ring.rank].data == output.data;
    auto copies = in_place ? nullptr : sparedFrom({output}, inputs);
    for (std::uint32_t r = 0; r < ring.size; ++r) {
      phase.pieces[r] = {inputs[r].data, inputs[r].bytes, nullptr, 0};
    }
    const Buffer own = inputs[ring.rank];
    phase.then = [=](const ContributorSet&) {
      (void)copies;
      copyBytes(output.data, own.data, output.bytes);
    };
  } else {
    phase.pieces[shape.root] = {nullptr, 0, output.data, output.bytes};
  }
  out.phases.push_back(std::move(phase));
  return out;
}

StrictRequest strictReduce(Ring ring, const RoundShape& shape, Buffer tensor) {
  StrictRequest out = requestFor(shape, tensor.bytes);
  out.needed.insert(Rank{shape.root});
  StrictPhase phase;
  phase.pieces.resize(ring.size);
  if (ring.rank == shape.root) {
    auto theirs = makeScratch(tensor.bytes * ring.size);
    for (std::uint32_t r = 0; r < ring.size; ++r) {
      phase.pieces[r] = {nullptr, 0, theirs->data() + r * tensor.bytes, tensor.bytes};
    }
    phase.then = [=](const ContributorSet& members) {
      reduceMembers(ring, shape, members, theirs->data(), tensor.bytes, shape.numel, tensor.data,
                    tensor.data);
    };
  } else {
    phase.pieces[shape.root] = {tensor.data, tensor.bytes, nullptr, 0};
  }
  out.phases.push_back(std::move(phase));
  return out;
}

StrictRequest strictReduceScatter(Ring ring, const RoundShape& shape, Buffer output,
                                  const std::vector<Buffer>& inputs) {
  StrictRequest out = requestFor(shape, output.bytes);
  out.needs_all = true;
  auto theirs = makeScratch(output.bytes * ring.size);
  // The output may be a view of an input that is still being sent: send from copies.
  auto mine = makeScratch(output.bytes * ring.size);
  StrictPhase phase;
  for (std::uint32_t r = 0; r < ring.size; ++r) {
    std::byte* from = mine->data() + r * output.bytes;
    copyBytes(from, inputs[r].data, output.bytes);
    phase.pieces.push_back({from, output.bytes, theirs->data() + r * output.bytes, output.bytes});
  }
  phase.then = [=](const ContributorSet& members) {  // also keeps `mine` alive while it is sent
    reduceMembers(ring, shape, members, theirs->data(), output.bytes, shape.numel,
                  mine->data() + ring.rank * output.bytes, output.data);
  };
  out.phases.push_back(std::move(phase));
  return out;
}

StrictRequest strictAlltoall(Ring ring, const RoundShape& shape, const std::vector<Buffer>& outputs,
                             std::vector<Buffer> inputs) {
  std::uint64_t total = 0;
  for (const auto& input : inputs) total += input.bytes;
  StrictRequest out = requestFor(shape, total);
  out.needs_all = true;
  auto copies = sparedFrom(outputs, inputs);
  StrictPhase phase;
  for (std::uint32_t r = 0; r < ring.size; ++r) {
    phase.pieces.push_back({inputs[r].data, inputs[r].bytes, outputs[r].data, outputs[r].bytes});
  }
  const Buffer from = inputs[ring.rank];
  const Buffer to = outputs[ring.rank];
  phase.then = [=](const ContributorSet&) {
    (void)copies;
    copyBytes(to.data, from.data, std::min(to.bytes, from.bytes));
  };
  out.phases.push_back(std::move(phase));
  return out;
}

StrictRequest strictBarrier(Ring) {
  RoundShape shape;
  shape.kind = OpKind::barrier;
  return requestFor(shape, 0);
}

}  // namespace papilio::pg
