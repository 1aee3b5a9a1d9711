"""All-reduce of every dtype and reduce op beside Gloo where Gloo can do it; object collectives.

All collectives against an oracle: test_matrix.py."""

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


@pytest.mark.timeout(120)
def test_dtype_and_op_matrix():
    with Cluster(3) as ranks:
        for wrong, compared, with_gloo, refused in ranks.run(ALL_REDUCE, timeout=100):
            assert wrong == []
            assert compared == 5 * (4 * 6 + 2 * 3 + 6 * 7)  # floats, complex, integers and bool
            assert with_gloo > 100
            assert refused == 5 * (12 * 9 - 72)


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
