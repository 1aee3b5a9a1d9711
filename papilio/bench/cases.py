"""One collective on one size in one rank: buffers, the call, and what must come out."""

import numpy as np
import torch
import torch.distributed as dist

from papilio.bench import patterns

DTYPES = {
    "float": torch.float32,
    "double": torch.float64,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int32": torch.int32,
    "int64": torch.int64,
}
COLLECTIVES = (
    "all_reduce",
    "broadcast",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "barrier",
)
SHARED_OUT = ("all_gather", "reduce_scatter", "all_to_all")  # sizes are multiples of n elements
_POISON = 0xA5


def counts(collective: str, size: int, element: int, ranks: int) -> tuple[int, int]:
    """(elements, bytes) of the nominal size, rounded down as the collective needs it."""
    if collective == "barrier":
        return 0, 0
    elements = size // element
    if collective in SHARED_OUT:
        elements -= elements % ranks
    return elements, elements * element


def _tensor(values, numel: int, dtype: torch.dtype, start: int = 0) -> torch.Tensor:
    out = torch.empty(numel, dtype=dtype)
    if dtype in (torch.bfloat16, torch.float16):
        wide = patterns.fill(np.empty(numel, dtype=np.float32), values, start)
        return out.copy_(torch.from_numpy(wide))
    patterns.fill(out.numpy(), values, start)
    return out


class Case:
    """``prepare(k)``, ``call(group)``, ``check(k)`` for iteration k of one row.

    ``spec`` is what the supervisor sends: collective, count, type, op, root, unalign, device.
    On a device a call is over when the device has done it.
    """

    def __init__(self, spec: dict, rank: int, ranks: int):
        self.rank, self.ranks = rank, ranks
        self.collective = spec["collective"]
        self.count = spec["count"]
        self.root = spec["root"]
        self.dtype = DTYPES[spec["type"]]
        self.device = torch.device(spec["device"])
        self.op_name = spec["op"]
        self.op = getattr(dist.ReduceOp, {"prod": "PRODUCT"}.get(spec["op"], spec["op"].upper()))
        reducing = self.collective in ("all_reduce", "reduce_scatter")
        self.pattern = patterns.Pattern(
            ranks, patterns.BITS[spec["type"]], spec["op"] if reducing else "sum"
        )
        shared = self.collective in SHARED_OUT
        self.block = self.count // ranks if shared else self.count
        self.in_place = self.collective in ("all_reduce", "broadcast")
        sends = self.block if self.collective == "all_gather" else self.count
        source = self._values(lambda i: self.pattern.contribution(rank, i), sends)
        self.source = None if source is None else source.to(self.device)
        self.input = self._buffer(sends, spec["unalign"])
        if self.in_place:
            self.output = self.input
        else:
            received = self.block if self.collective == "reduce_scatter" else self.count
            self.output = self._buffer(received, spec["unalign"])
        self.parts = self._expected_parts() if self.count else []

    def _values(self, values, numel: int, start: int = 0) -> torch.Tensor:
        """Values for every shift an iteration may have."""
        return _tensor(values, numel + patterns.SHIFTS, self.dtype, start) if numel else None

    def _buffer(self, numel: int, unalign: int) -> torch.Tensor:
        return torch.zeros(numel + unalign, dtype=self.dtype, device=self.device)[unalign:]

    def _expected_parts(self) -> list:
        """Blocks of the output in order, each with values for every shift."""
        pattern, block, own = self.pattern, self.block, self.rank * self.block

        def of(rank):
            return lambda index: pattern.contribution(rank, index)

        if self.collective == "all_reduce":
            return [self._values(pattern.reduced, block)]
        if self.collective == "broadcast":
            return [self._values(of(self.root), block)]
        if self.collective == "reduce_scatter":
            return [self._values(pattern.reduced, block, own)]
        if self.collective == "all_gather":
            return [self._values(of(rank), block) for rank in range(self.ranks)]
        if self.collective == "all_to_all":
            return [self._values(of(rank), block, own) for rank in range(self.ranks)]
        return []

    @staticmethod
    def shift(k: int) -> int:
        return (k * 7 + 1) % patterns.SHIFTS

    def prepare(self, k: int) -> None:
        """Fresh input; whatever the last call left in the output is overwritten."""
        if self.count == 0:
            return
        if not self.in_place:
            self.output.view(torch.uint8).fill_(_POISON)
        elif self.collective == "broadcast" and self.rank != self.root:
            self.input.view(torch.uint8).fill_(_POISON)
            return
        shift = self.shift(k)
        self.input.copy_(self.source[shift : shift + self.input.numel()])
        self.finish()

    def call(self, group) -> None:
        """Returns when the result is there; raises what the collective failed with."""
        later = self.device.type != "cpu"
        work = self._issue(group, later)
        if not later:
            return
        work.wait()
        self.finish()
        if (error := work.exception()) is not None:  # it failed after wait() had returned
            raise error

    def _issue(self, group, later: bool):
        how = {"group": group, "async_op": later}
        if self.collective == "all_reduce":
            return dist.all_reduce(self.input, self.op, **how)
        if self.collective == "broadcast":
            return dist.broadcast(self.input, self.root, **how)
        if self.collective == "all_gather":
            return dist.all_gather_single(self.output, self.input, **how)
        if self.collective == "reduce_scatter":
            return dist.reduce_scatter_single(self.output, self.input, self.op, **how)
        if self.collective == "all_to_all":
            return dist.all_to_all_single(self.output, self.input, **how)
        return dist.barrier(**how)

    def finish(self) -> None:
        """Until the device has done all that was enqueued."""
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()

    def check(self, k: int) -> tuple[int, torch.Tensor | None]:
        """Number of wrong elements, and their places in the output."""
        shift, wrong, places = self.shift(k), 0, []
        for number, part in enumerate(self.parts):
            begin = number * self.block
            got = self.output[begin : begin + self.block].cpu()
            want = part[shift : shift + self.block]
            if torch.equal(got, want):
                continue
            bad = torch.nonzero(got != want).flatten()
            wrong += bad.numel()
            places.append(bad + begin)
        return wrong, torch.cat(places) if places else None

    def masks(self, k: int, places: torch.Tensor, rescaled: bool) -> dict:
        """Contributors recovered from at most 64 wrong sums, and how many elements show each."""
        found: dict[str, int] = {}
        if self.collective != "all_reduce":
            return found
        step = max(1, len(places) // 64)
        for place in places[::step][:64].tolist():
            value = float(self.output[place])
            mask = self.pattern.recover(value, place + self.shift(k), rescaled)
            found[mask] = found.get(mask, 0) + step
        return found

    def unexplained(self, k: int, report) -> int:
        """Elements that differ from what the backend's own report says they are (api.md 3)."""
        wrong, n, shift = 0, self.ranks, self.shift(k)
        for chunk in report.chunks:
            numel = chunk.stop - chunk.start
            members, op = chunk.contributors, self.op_name

            def value(index, members=members, op=op):
                total = sum(self.pattern.contribution(rank, index) for rank in members)
                return total / len(members) * (n if op == "sum" else 1)

            want = _tensor(value, numel, self.dtype, shift + chunk.start)
            wrong += int((self.output[chunk.start : chunk.stop].cpu() != want).sum())
        return wrong
