"""Every collective with every dtype, reduce op and size against an oracle, inside a rank of a
cluster (test_matrix.py).

The oracle is numpy in float64, complex128 or int64 over small integers that every rank can compute
for every other one, so sums are exact. All tensors lie in poisoned memory, outputs are poisoned
themselves: a foreign byte, and one beyond the end, shows.
"""

import contextlib
import datetime
import functools
import time
import traceback
import typing

import numpy as np
import torch
import torch.distributed as dist

import papilio

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]
COMPLEX = [torch.complex64, torch.complex128]
DTYPES = FLOATS + INTEGERS + [torch.bool] + COMPLEX
OPS = ["SUM", "AVG", "PREMUL_SUM", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR"]
SMALL = [0, 1, 3, 4, 1000]
LARGE = 1_000_003
START = 1_999_993  # places where an input may begin; a prime, so that no two ranks begin at one
FACTOR = 0.5  # of PREMUL_SUM
POISON = 0xFB


class Variant(typing.NamedTuple):
    offset: int  # elements between the start of the memory and the tensor
    alias: bool  # in place, or outputs that are views of one tensor; else all tensors apart


VARIANTS = [Variant(0, False), Variant(3, True), Variant(0, True), Variant(3, False)]


def allowed(op: str, dtype, collective) -> bool:
    """What c10d defines: no order for complex numbers, no bits of fractions, no fractions of
    integers."""
    fractions = dtype.is_floating_point or dtype.is_complex
    if op in ("AVG", "PREMUL_SUM"):
        return fractions
    if op == "PRODUCT":  # torch's all_reduce refuses complex numbers, the backend does not
        return not dtype.is_complex or collective is not all_reduce
    if op in ("MIN", "MAX"):
        return not dtype.is_complex
    return op == "SUM" or not fractions


def reduce_op(name: str, salt: int):
    if name != "PREMUL_SUM":
        return getattr(dist.ReduceOp, name)
    factor = FACTOR if salt % 2 else torch.tensor([FACTOR])
    return dist._make_nccl_premul_sum(factor)


@functools.cache
def table(kind: str, signed: bool) -> np.ndarray:
    """Small numbers for one kind of op. Every input is a slice of it that begins elsewhere: to
    compute a million of them anew for each tensor would take longer than the collectives."""
    mixed = np.random.default_rng(1).integers(0, 1 << 40, START + LARGE + 64)
    values = {
        "mostly": lambda: mixed % 8 != 0,
        "half": lambda: mixed % 2 == 0,
        "seldom": lambda: mixed % 8 == 0,
        "sum": lambda: (mixed & 15) - (7 if signed else 0),
        "product": lambda: (
            np.where(mixed % 5 == 0, 2, 1) * np.where(signed & (mixed % 7 == 0), -1, 1)
        ),
        "any": lambda: mixed % 121 - (60 if signed else 0),
    }[kind]()
    return values.astype(np.int16)


def integers(op: str | None, dtype, seed: int, numel: int) -> np.ndarray:
    """Small enough that eight of them reduce exactly in every dtype; products wrap alike."""
    if dtype == torch.bool:
        few = {"PRODUCT": "mostly", "MIN": "mostly", "BAND": "mostly", "BXOR": "half", None: "half"}
        kind = few.get(op, "seldom")
    else:
        sums = {"SUM": "sum", "AVG": "sum", "PREMUL_SUM": "sum", "PRODUCT": "product"}
        kind = sums.get(op, "any")
    at = seed * 7919 % START
    values = table(kind, dtype not in (torch.uint8, torch.bool))
    return values[at : at + numel].astype(np.int64)


def exact(op: str | None, dtype, seed: int, numel: int) -> np.ndarray:
    plain = integers(op, dtype, seed, numel)
    if dtype.is_complex:
        return plain + 1j * integers(op, dtype, seed + 5, numel)
    return plain.astype(np.float64) if dtype.is_floating_point else plain


def combined(op: str, dtype, inputs: list) -> np.ndarray:
    if dtype == torch.bool:
        kinds = {"PRODUCT": np.all, "MIN": np.all, "BAND": np.all}
        if op == "BXOR":
            return np.sum(inputs, axis=0) % 2
        return kinds.get(op, np.any)(np.array(inputs) != 0, axis=0).astype(np.int64)
    if op in ("SUM", "AVG", "PREMUL_SUM"):
        out = np.sum(inputs, axis=0)
        if op == "SUM":
            return out
        by = FACTOR if op == "PREMUL_SUM" else None
        parts = out.view(np.float64)  # numpy's own complex division is less exact
        return (parts * by if by else parts / len(inputs)).view(out.dtype)
    function = {
        "PRODUCT": np.multiply,
        "MIN": np.minimum,
        "MAX": np.maximum,
        "BAND": np.bitwise_and,
        "BOR": np.bitwise_or,
        "BXOR": np.bitwise_xor,
    }[op]
    return function.reduce(inputs)


def as_tensor(values: np.ndarray, dtype) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(dtype)


class Case:
    """One collective with one dtype, op, size and variant: memory, inputs, comparison."""

    def __init__(self, rank, n, dtype, op, numel, variant, salt):
        self.rank, self.n, self.dtype, self.op, self.numel = rank, n, dtype, op, numel
        self.alias, self.offset, self.salt = variant.alias, variant.offset, salt
        self.root = salt % n
        self.reduce_op = reduce_op(op, salt) if op else None
        self.made: list = []
        self.wrong: list = []

    def poisoned(self, numel: int) -> torch.Tensor:
        """A tensor of bytes that nobody sends."""
        return self.make(None, numel)

    def make(self, values: torch.Tensor | None, numel: int | None = None) -> torch.Tensor:
        numel = values.numel() if numel is None else numel
        whole = torch.empty(self.offset + numel + 2 * self.offset, dtype=self.dtype)
        whole.view(torch.uint8).fill_(POISON)
        tensor = whole[self.offset : self.offset + numel]
        if values is not None:
            tensor.copy_(values)
        self.made.append((whole, numel))
        return tensor

    def _seed(self, rank: int, part: int) -> int:
        return self.salt * 977 + part * 41 + rank * 7

    def input(self, rank: int, part: int = 0, numel: int | None = None) -> torch.Tensor:
        """What that rank gives, its piece number ``part``."""
        numel = self.numel if numel is None else numel
        seed = self._seed(rank, part)
        return as_tensor(exact(self.op, self.dtype, seed, numel), self.dtype)

    def reduced(self, part: int = 0, numel: int | None = None) -> torch.Tensor:
        numel = self.numel if numel is None else numel
        inputs = [exact(self.op, self.dtype, self._seed(r, part), numel) for r in range(self.n)]
        return as_tensor(combined(self.op, self.dtype, inputs), self.dtype)

    def same(self, what: str, got: torch.Tensor, want: torch.Tensor) -> None:
        if self.dtype == torch.bool:  # every byte counts, not only whether it is zero
            got, want = got.view(torch.uint8), want.view(torch.uint8)
        if not torch.equal(got, want):
            at = int((got != want).nonzero()[0]) if got.shape == want.shape else -1
            self.wrong.append([what, at, got[at : at + 4].tolist(), want[at : at + 4].tolist()])

    def check_ground(self) -> None:
        for whole, numel in self.made:
            size = whole.element_size()
            data = whole.view(torch.uint8)
            ground = torch.cat([data[: self.offset * size], data[(self.offset + numel) * size :]])
            if not bool((ground == POISON).all()):
                self.wrong.append(["bytes beside the tensor were written"])


def broadcast(case: Case) -> None:
    source = case.rank == case.root
    tensor = case.make(case.input(case.rank)) if source else case.poisoned(case.numel)
    with papilio.strict() if case.alias else contextlib.nullcontext():
        dist.broadcast(tensor, case.root)
    case.same("tensor", tensor, case.input(case.root))


def all_reduce(case: Case) -> None:
    tensor = case.make(case.input(case.rank))
    with papilio.strict() if case.alias else contextlib.nullcontext():
        dist.all_reduce(tensor, case.reduce_op)
    case.same("tensor", tensor, case.reduced())


def all_reduce_coalesced(case: Case) -> None:
    sizes = [case.numel, 1, case.numel]
    tensors = [case.make(case.input(case.rank, p, size)) for p, size in enumerate(sizes)]
    options = dist.AllreduceCoalescedOptions()
    options.reduceOp = case.reduce_op
    dist.group.WORLD.allreduce_coalesced(tensors, options).wait()
    for part, size in enumerate(sizes):
        case.same(f"tensor {part}", tensors[part], case.reduced(part, size))


def reduce(case: Case) -> None:
    tensor = case.make(case.input(case.rank))
    dist.reduce(tensor, case.root, case.reduce_op)
    want = case.reduced() if case.rank == case.root else case.input(case.rank)
    case.same("tensor", tensor, want)


def _outputs(case: Case, count: int) -> list:
    """Tensors apart, or, with aliases, views of one."""
    if not case.alias:
        return [case.poisoned(case.numel) for _ in range(count)]
    whole = case.poisoned(count * case.numel)
    return [whole[k * case.numel : (k + 1) * case.numel] for k in range(count)]


def _input_within(case: Case, outputs: list) -> torch.Tensor:
    """This rank's input; with aliases it lies where the output will be."""
    if not case.alias:
        return case.make(case.input(case.rank))
    return outputs[case.rank].copy_(case.input(case.rank))


def all_gather(case: Case) -> None:
    outputs = _outputs(case, case.n)
    mine = _input_within(case, outputs)
    dist.all_gather(outputs, mine)
    for r in range(case.n):
        case.same(f"from {r}", outputs[r], case.input(r))
    case.same("input", mine, case.input(case.rank))


def all_gather_into_tensor(case: Case) -> None:
    whole = case.poisoned(case.n * case.numel)
    at = case.rank * case.numel
    mine = _input_within(case, {case.rank: whole[at : at + case.numel]})
    dist.all_gather_into_tensor(whole, mine)
    case.same("whole", whole, torch.cat([case.input(r) for r in range(case.n)]))


def all_gather_coalesced(case: Case) -> None:
    inputs = [case.make(case.input(case.rank, part)) for part in range(2)]
    lists = [[case.poisoned(case.numel) for _ in range(2)] for _ in range(case.n)]
    dist.all_gather_coalesced(lists, inputs)
    wholes = [case.poisoned(case.n * case.numel) for _ in range(2)]
    dist.group.WORLD.all_gather_single_coalesced(wholes, inputs).wait()
    for part in range(2):
        every = [case.input(r, part) for r in range(case.n)]
        for r in range(case.n):
            case.same(f"list {part} from {r}", lists[r][part], every[r])
        case.same(f"whole {part}", wholes[part], torch.cat(every))


def gather(case: Case) -> None:
    at_root = case.rank == case.root
    outputs = _outputs(case, case.n) if at_root else None
    mine = _input_within(case, outputs) if at_root else case.make(case.input(case.rank))
    dist.gather(mine, outputs, dst=case.root)
    for r in range(case.n if at_root else 0):
        case.same(f"from {r}", outputs[r], case.input(r))
    case.same("input", mine, case.input(case.rank))


def scatter(case: Case) -> None:
    at_root = case.rank == case.root
    inputs = [case.make(case.input(case.root, r)) for r in range(case.n)] if at_root else None
    in_place = at_root and case.alias
    # Where the root keeps its own piece, or even where it has the piece of another rank.
    place = case.root if case.salt % 3 else (case.root + 1) % case.n
    output = inputs[place] if in_place else case.poisoned(case.numel)
    dist.scatter(output, inputs, src=case.root)
    case.same("output", output, case.input(case.root, case.rank))


def reduce_scatter(case: Case) -> None:
    inputs = [case.make(case.input(case.rank, part)) for part in range(case.n)]
    output = inputs[case.rank] if case.alias else case.poisoned(case.numel)
    dist.reduce_scatter(output, inputs, case.reduce_op)
    case.same("output", output, case.reduced(case.rank))
    for part in range(case.n):
        if inputs[part] is not output:
            case.same(f"input {part}", inputs[part], case.input(case.rank, part))


def _whole_input(case: Case, base: int = 0) -> torch.Tensor:
    parts = [case.input(case.rank, base + part) for part in range(case.n)]
    return case.make(torch.cat(parts))


def reduce_scatter_tensor(case: Case) -> None:
    whole = _whole_input(case)
    at = case.rank * case.numel
    output = whole[at : at + case.numel] if case.alias else case.poisoned(case.numel)
    dist.reduce_scatter_tensor(output, whole, case.reduce_op)
    case.same("output", output, case.reduced(case.rank))


def reduce_scatter_coalesced(case: Case) -> None:
    inputs = [_whole_input(case, base) for base in (0, case.n)]
    outputs = [case.poisoned(case.numel) for _ in inputs]
    options = dist.ReduceScatterOptions()
    options.reduceOp = case.reduce_op
    dist.group.WORLD.reduce_scatter_single_coalesced(outputs, inputs, options).wait()
    for base, output in enumerate(outputs):
        case.same(f"output {base}", output, case.reduced(base * case.n + case.rank))


def all_to_all(case: Case) -> None:
    inputs = [case.make(case.input(case.rank, to)) for to in range(case.n)]
    outputs = inputs if case.alias else [case.poisoned(case.numel) for _ in inputs]
    dist.all_to_all(outputs, inputs)
    for r in range(case.n):
        case.same(f"from {r}", outputs[r], case.input(r, case.rank))


def all_to_all_single(case: Case) -> None:
    whole = _whole_input(case)
    output = whole if case.alias else case.poisoned(case.n * case.numel)
    dist.all_to_all_single(output, whole)
    want = torch.cat([case.input(r, case.rank) for r in range(case.n)])
    case.same("output", output, want)


def all_to_all_uneven(case: Case) -> None:
    """Rows of two elements; some pairs exchange nothing, some the size of the case."""
    n, mine = case.n, case.rank

    def rows(a, b):
        return case.numel // 2 if (a + 2 * b) % 3 == 0 else (a * 2 + b + case.salt) % 4

    def piece(a, b):
        return case.input(a, b, 2 * rows(a, b))

    given = case.make(torch.cat([piece(mine, to) for to in range(n)]))
    got = case.poisoned(sum(2 * rows(a, mine) for a in range(n)))
    out_splits = [rows(a, mine) for a in range(n)]
    in_splits = [rows(mine, to) for to in range(n)]
    dist.all_to_all_single(got.view(-1, 2), given.view(-1, 2), out_splits, in_splits)
    case.same("output", got, torch.cat([piece(a, mine) for a in range(n)]))


MOVING = [
    broadcast,
    all_gather,
    all_gather_into_tensor,
    all_gather_coalesced,
    gather,
    scatter,
    all_to_all,
    all_to_all_single,
    all_to_all_uneven,
]
REDUCING = [
    all_reduce,
    all_reduce_coalesced,
    reduce,
    reduce_scatter,
    reduce_scatter_tensor,
    reduce_scatter_coalesced,
]


def cases(dtypes, sizes, every_variant: bool, ops=OPS):
    """All cases in an order that is the same on all ranks; variants take turns, or all are used."""
    turn = 0
    for dtype in dtypes:
        for collective in MOVING + REDUCING:
            for op in ops if collective in REDUCING else [None]:
                if op is not None and not allowed(op, dtype, collective):
                    continue
                for numel in sizes:
                    turn += 1
                    chosen = VARIANTS if every_variant else [VARIANTS[turn % len(VARIANTS)]]
                    for variant in chosen:
                        yield collective, dtype, op, numel, variant


def run(rank: int, n: int, dtypes, sizes, every_variant: bool, ops=OPS) -> dict:
    """Runs them; ``wrong`` says which disagreed or were refused, ``done`` how many of each ran."""
    done: dict = {}
    wrong: list = []
    # A refusal by one rank alone must not cost the others a minute each.
    dist.distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=15), dist.group.WORLD)
    refused = 0
    for salt, (collective, dtype, op, numel, variant) in enumerate(
        cases(dtypes, sizes, every_variant, ops)
    ):
        case = Case(rank, n, dtype, op, numel, variant, salt)
        name = collective.__name__
        try:
            collective(case)
            case.check_ground()
            done[name] = done.get(name, 0) + 1
        except Exception:  # noqa: BLE001 - whatever refuses it
            refused += 1
            case.wrong.append(["refused", traceback.format_exc()[-600:]])
        if case.wrong:
            wrong.append([name, str(dtype), op, numel, variant, "root", case.root, case.wrong[:2]])
        if refused >= 3:
            break
    return {"done": done, "wrong": wrong[:8]}


def refusals(rank: int, n: int) -> dict:
    """What c10d does not define is a ValueError before anything is sent, and breaks nothing."""
    refused, wrong = 0, []
    for dtype in DTYPES:
        for op in OPS:
            for collective in REDUCING:
                if allowed(op, dtype, collective):
                    continue
                case = Case(rank, n, dtype, None, 3, VARIANTS[0], 1)
                case.reduce_op = reduce_op(op, 1)
                try:
                    collective(case)
                    wrong.append([collective.__name__, str(dtype), op, "was accepted"])
                except ValueError:
                    refused += 1
                except Exception:  # noqa: BLE001 - accepted, and then there is no value to expect
                    wrong.append([collective.__name__, op, traceback.format_exc()[-300:]])
    wrong += run(rank, n, [torch.float32], [3], False)["wrong"]
    return {"refused": refused, "wrong": wrong}


def barriers(rank: int, n: int, times: int) -> list:
    """(entered, returned) of each; each time another rank comes late."""
    out = []
    for turn in range(times):
        if turn % n == rank:
            np.sort(table("any", True))  # busy elsewhere: this one is late
        entered = time.monotonic()
        dist.barrier()
        out.append([entered, time.monotonic()])
    return out
