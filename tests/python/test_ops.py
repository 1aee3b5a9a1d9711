"""Every dtype and reduce op against what torch computes, and against Gloo where Gloo can do it."""

import pytest
from cluster import Cluster

REFERENCE = r"""
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.uint8,
          torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64, torch.complex128]
OPS = {"SUM": dist.ReduceOp.SUM, "AVG": dist.ReduceOp.AVG, "PRODUCT": dist.ReduceOp.PRODUCT,
       "MIN": dist.ReduceOp.MIN, "MAX": dist.ReduceOp.MAX, "BAND": dist.ReduceOp.BAND,
       "BOR": dist.ReduceOp.BOR, "BXOR": dist.ReduceOp.BXOR, "PREMUL_SUM": None}
if hasattr(dist, "_make_nccl_premul_sum"):
    OPS["PREMUL_SUM"] = dist._make_nccl_premul_sum(0.5)

def allowed(name, dtype):  # c10d.md, section (a)
    fractions = dtype.is_floating_point or dtype.is_complex
    if name in ("AVG", "PREMUL_SUM"):
        return fractions
    if name in ("MIN", "MAX", "PRODUCT"):  # torch itself refuses them for complex numbers
        return not dtype.is_complex
    if name in ("BAND", "BOR", "BXOR"):
        return not fractions
    return True

def values(r, dtype, numel):
    index = torch.arange(numel)
    small = (index * 7 + r * 3 + index // 5) % 4 + (1 if dtype != torch.bool else -2)
    if dtype == torch.bool:
        return ((index + r) % 3 == 0)
    if dtype.is_complex:
        return torch.complex(small.double(), (small + r).double()).to(dtype)
    return small.to(dtype)

def reference(name, dtype, numel):
    wide = (torch.complex128 if dtype.is_complex else torch.float64 if dtype.is_floating_point
            else torch.int64)
    stack = torch.stack([values(r, dtype, numel).to(wide) for r in range(n)])
    if dtype == torch.bool:
        stack = stack.bool()
        out = {"SUM": stack.any(0), "MAX": stack.any(0), "BOR": stack.any(0),
               "PRODUCT": stack.all(0), "MIN": stack.all(0), "BAND": stack.all(0),
               "BXOR": stack.sum(0) % 2 == 1}[name]
        return out
    if name == "SUM":
        out = stack.sum(0)
    elif name == "AVG":
        out = stack.sum(0)
        if dtype.is_complex:  # torch divides complex numbers less exactly
            out = torch.view_as_complex(torch.view_as_real(out) / n)
        else:
            out = out / n
    elif name == "PREMUL_SUM":
        out = stack.sum(0) * 0.5
    elif name == "PRODUCT":
        out = stack.prod(0)
    elif name == "MIN":
        out = stack.min(0).values
    elif name == "MAX":
        out = stack.max(0).values
    else:
        out = stack[0].clone()
        for other in stack[1:]:
            out = out & other if name == "BAND" else out | other if name == "BOR" else out ^ other
    return out.to(dtype)
"""

ALL_REDUCE = (
    REFERENCE
    + r"""
gloo = dist.new_group(backend="gloo")
wrong, compared, with_gloo, refused = [], 0, 0, 0
for dtype in DTYPES:
    for name, op in OPS.items():
        for numel in (0, 1, 15, 16, 1000):
            mine = values(rank, dtype, numel)
            case = [name, str(dtype), numel]
            if not allowed(name, dtype):
                try:
                    dist.all_reduce(mine, op)
                    wrong.append(case + ["was accepted"])
                except ValueError as error:
                    refused += name in str(error)
                continue
            dist.all_reduce(mine, op)
            compared += 1
            if not torch.equal(mine, reference(name, dtype, numel)):
                wrong.append(case + [mine.tolist()[:4], reference(name, dtype, numel).tolist()[:4]])
            theirs = values(rank, dtype, numel)
            if numel == 0 or dtype == torch.bool or name == "PREMUL_SUM":
                continue  # Gloo's bool sums are uint8 sums
            try:
                dist.all_reduce(theirs, op, group=gloo)
            except (RuntimeError, ValueError):
                continue
            with_gloo += 1
            if not torch.equal(mine, theirs):
                wrong.append(case + ["differs from gloo", mine.tolist()[:4], theirs.tolist()[:4]])
result = [wrong, compared, with_gloo, refused]
"""
)

LARGE = (
    REFERENCE
    + r"""
wrong = []
for dtype in DTYPES:
    for name in ("SUM", "MAX", "AVG"):
        if allowed(name, dtype):
            mine = values(rank, dtype, 300001)  # above the direct schedule of strict ones, odd
            dist.all_reduce(mine, OPS[name])
            if not torch.equal(mine, reference(name, dtype, 300001)):
                wrong.append([name, str(dtype)])
result = wrong
"""
)

OTHERS = (
    REFERENCE
    + r"""
wrong = []
def same(what, got, want):
    if not torch.equal(got, want):
        wrong.append([what, got.tolist()[:6], want.tolist()[:6]])

for dtype in DTYPES:
    for numel in (0, 1, 17, 50000):
        mine = values(rank, dtype, numel)
        every = [values(r, dtype, numel) for r in range(n)]
        for root in (0, n - 1):
            copy = mine.clone()
            dist.broadcast(copy, root)
            same(["broadcast", str(dtype), numel], copy, every[root])
        parts = [torch.zeros_like(mine) for _ in range(n)]
        dist.all_gather(parts, mine)
        for r in range(n):
            same(["all_gather", str(dtype), numel], parts[r], every[r])
        flat = torch.zeros(n * numel, dtype=dtype)
        dist.all_gather_into_tensor(flat, mine)
        same(["all_gather_into_tensor", str(dtype), numel], flat, torch.cat(every))
        got = [torch.zeros_like(mine) for _ in range(n)] if rank == 1 else None
        dist.gather(mine, got, dst=1)
        for r in range(n if rank == 1 else 0):
            same(["gather", str(dtype), numel], got[r], every[r])
        piece = torch.zeros_like(mine)
        dist.scatter(piece, every if rank == 2 else None, src=2)
        same(["scatter", str(dtype), numel], piece, every[rank])
        copy = mine.clone()
        dist.reduce(copy, 0, dist.ReduceOp.SUM)
        if rank == 0:
            same(["reduce", str(dtype), numel], copy, reference("SUM", dtype, numel))
        out = torch.zeros_like(mine)
        dist.reduce_scatter(out, [mine.clone() for _ in range(n)], dist.ReduceOp.SUM)
        same(["reduce_scatter", str(dtype), numel], out, reference("SUM", dtype, numel))
        dist.reduce_scatter_tensor(out, mine.repeat(n), dist.ReduceOp.SUM)
        same(["reduce_scatter_tensor", str(dtype), numel], out, reference("SUM", dtype, numel))
        flat = torch.zeros(n * numel, dtype=dtype)
        dist.all_to_all_single(flat, mine.repeat(n))
        same(["all_to_all_single", str(dtype), numel], flat, torch.cat(every))
        parts = [torch.zeros_like(mine) for _ in range(n)]
        dist.all_to_all(parts, [mine.clone() for _ in range(n)])
        for r in range(n):
            same(["all_to_all", str(dtype), numel], parts[r], every[r])
uneven = torch.arange(n + rank)  # rank r sends 1 to all, and r more to the last
sizes_in = [1] * (n - 1) + [1 + rank]
sizes_out = [1] * n if rank != n - 1 else [1 + r for r in range(n)]
out = torch.full((sum(sizes_out),), -1)
dist.all_to_all_single(out, uneven, sizes_out, sizes_in)
want = [rank] * n if rank != n - 1 else [n - 1 + k for r in range(n) for k in range(1 + r)]
same("uneven all_to_all_single", out, torch.tensor(want))
result = wrong
"""
)


@pytest.mark.timeout(120)
def test_dtype_and_op_matrix():
    with Cluster(3) as ranks:
        for wrong, compared, with_gloo, refused in ranks.run(ALL_REDUCE, timeout=100):
            assert wrong == []
            assert compared == 5 * (4 * 6 + 2 * 3 + 6 * 7)  # floats, complex, integers and bool
            assert with_gloo > 100
            assert refused == 5 * (12 * 9 - 72)
        assert ranks.run(LARGE) == [[]] * 3


@pytest.mark.timeout(120)
def test_other_collectives():
    with Cluster(4) as ranks:
        assert ranks.run(OTHERS, timeout=100) == [[]] * 4


@pytest.mark.timeout(60)
def test_object_collectives():
    source = """
objects = [None] * n
dist.all_gather_object(objects, {"rank": rank, "text": "x" * (rank * 1000)})
first = [o["rank"] for o in objects] == list(range(n)) and len(objects[2]["text"]) == 2000
boxed = [["from", rank]]
dist.broadcast_object_list(boxed, src=1)
collected = [None] * n if rank == 0 else None
dist.gather_object(rank * 10, collected, dst=0)
box = [None]
dist.scatter_object_list(box, [f"for {r}" for r in range(n)] if rank == 0 else None, src=0)
result = [first, boxed, collected, box]
"""
    with Cluster(3) as ranks:
        for rank, answer in enumerate(ranks.run(source)):
            collected = [0, 10, 20] if rank == 0 else None
            assert answer == [True, [["from", 1]], collected, [f"for {rank}"]]
