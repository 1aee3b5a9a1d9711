#include "sim/strict_work.hpp"

#include <algorithm>

#include "core/layout.hpp"

namespace papilio::sim {
namespace {

// Tensors from this size on go shard by shard, in two phases.
constexpr std::uint64_t kShardedFrom = 64;

Bytes slice(const Bytes& bytes, std::uint64_t start, std::uint64_t stop) {
  return Bytes(bytes.begin() + static_cast<std::ptrdiff_t>(start),
               bytes.begin() + static_cast<std::ptrdiff_t>(stop));
}

// Adds element-wise; integers in sums of this size are exact in every type used here.
void addTo(DType dtype, Bytes& sum, const Bytes& term) {
  withType(dtype, [&](auto type) {
    using T = decltype(type);
    for (std::size_t at = 0; at < sum.size(); at += sizeof(T)) {
      T a, b;
      std::memcpy(&a, sum.data() + at, sizeof(T));
      std::memcpy(&b, term.data() + at, sizeof(T));
      a = static_cast<T>(a + b);
      std::memcpy(sum.data() + at, &a, sizeof(T));
    }
  });
}

Bytes sumOf(DType dtype, const StrictWork::Phase& phase, const ContributorSet& members, Rank me,
            const Bytes& mine) {
  Bytes sum(mine.size());
  members.forEach(
      [&](Rank rank) { addTo(dtype, sum, rank == me ? mine : phase.pieces[rank.value].received); });
  return sum;
}

void prepareDirect(StrictWork& work, std::uint32_t n, Rank me, const RoundShape& shape,
                   Bytes& tensor) {
  auto& phase = work.phases.emplace_back();
  for (std::uint32_t r = 0; r < n; ++r) phase.pieces.push_back({tensor, Bytes(tensor.size())});
  phase.then = [&work, &tensor, me, dtype = shape.dtype](const ContributorSet& members) {
    tensor = sumOf(dtype, work.phases[0], members, me, Bytes(tensor));
  };
}

// Shard k belongs to the k-th member.
void prepareSharded(StrictWork& work, std::uint32_t n, const ContributorSet& members, Rank me,
                    const RoundShape& shape, Bytes& tensor) {
  const std::uint64_t element = elementSize(shape.dtype);
  const auto all = members.ranks();
  const std::uint64_t shard = (shape.numel + all.size() - 1) / all.size();
  const auto piece = [=, &tensor](std::uint64_t k) {
    return slice(tensor, std::min(k * shard, shape.numel) * element,
                 std::min((k + 1) * shard, shape.numel) * element);
  };
  const auto own = static_cast<std::uint64_t>(std::find(all.begin(), all.end(), me) - all.begin());
  const std::uint64_t mine = piece(own).size();
  work.phases.resize(2);
  for (auto& phase : work.phases) phase.pieces.resize(n);
  for (std::uint64_t k = 0; k < all.size(); ++k) {
    work.phases[0].pieces[all[k].value] = {piece(k), Bytes(mine)};
    work.phases[1].pieces[all[k].value] = {Bytes(mine), Bytes(piece(k).size())};
  }
  work.phases[0].then = [&work, members, me, dtype = shape.dtype](const ContributorSet&) {
    auto& second = work.phases[1].pieces;
    const Bytes sum =
        sumOf(dtype, work.phases[0], members, me, work.phases[0].pieces[me.value].send);
    members.forEach([&](Rank rank) { second[rank.value].send = sum; });
    second[me.value].received = sum;
  };
  work.phases[1].then = [&work, &tensor](const ContributorSet&) {
    tensor.clear();
    for (const auto& part : work.phases[1].pieces) {
      tensor.insert(tensor.end(), part.received.begin(), part.received.end());
    }
  };
}

void prepareBroadcast(StrictWork& work, std::uint32_t n, Rank me, const RoundShape& shape,
                      Bytes& tensor) {
  const Rank root{shape.root};
  work.needed.insert(root);
  auto& phase = work.phases.emplace_back();
  phase.pieces.resize(n);
  if (me == root) {
    for (auto& piece : phase.pieces) piece.send = tensor;
    return;
  }
  phase.pieces[root.value].received.resize(tensor.size());
  phase.then = [&work, &tensor, root](const ContributorSet&) {
    tensor = work.phases[0].pieces[root.value].received;
  };
}

void prepareTolerantBroadcast(StrictWork& work, std::uint32_t n, Rank me, const RoundShape& shape,
                              Bytes& tensor) {
  work.phases.resize(2);
  const bool root = me.value == shape.root;
  for (auto& phase : work.phases) {
    for (std::uint32_t r = 0; r < n; ++r) {
      phase.pieces.push_back({tensor, Bytes(root ? 0 : tensor.size())});
    }
  }
  if (root) return;
  work.common.emplace(tensor.size());
  work.phases[0].then = [&work, &tensor](const ContributorSet&) { tensor = *work.common; };
}

void prepareAllgather(StrictWork& work, std::uint32_t n, Rank me, Bytes& tensor) {
  work.needs_all = true;
  auto& phase = work.phases.emplace_back();
  for (std::uint32_t r = 0; r < n; ++r) phase.pieces.push_back({tensor, Bytes(tensor.size())});
  phase.then = [&work, &tensor, me](const ContributorSet&) {
    work.phases[0].pieces[me.value].received = work.phases[0].pieces[me.value].send;
    tensor.clear();
    for (const auto& piece : work.phases[0].pieces) {
      tensor.insert(tensor.end(), piece.received.begin(), piece.received.end());
    }
  };
}

}  // namespace

void prepare(StrictWork& work, std::uint32_t n, const ContributorSet& members, Rank me,
             const RoundShape& shape, Bytes& tensor) {
  switch (shape.kind) {
    case OpKind::allreduce:
      if (shape.numel < kShardedFrom) return prepareDirect(work, n, me, shape, tensor);
      return prepareSharded(work, n, members, me, shape, tensor);
    case OpKind::broadcast:
      if (shape.strict) return prepareBroadcast(work, n, me, shape, tensor);
      return prepareTolerantBroadcast(work, n, me, shape, tensor);
    case OpKind::allgather: return prepareAllgather(work, n, me, tensor);
    default: return;  // a barrier carries nothing
  }
}

fault::StrictSpec specOf(const StrictWork& work, const RoundShape& shape, std::uint32_t n) {
  const std::uint64_t block = maxChunkBytes(n);
  fault::StrictSpec spec;
  spec.shape = shape;
  spec.needs_all = work.needs_all;
  spec.needed = work.needed;
  spec.nbytes = shape.numel * elementSize(shape.dtype);
  for (const auto& phase : work.phases) {
    auto& exchange = spec.phases.emplace_back();
    for (const auto& piece : phase.pieces) {
      const auto blocks = (piece.received.size() + block - 1) / block;
      exchange.push_back({static_cast<std::uint32_t>(blocks), !piece.send.empty()});
    }
  }
  return spec;
}

}  // namespace papilio::sim
