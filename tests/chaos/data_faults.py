"""Faults of the bytes: a gradient that is not finite."""

import nonfinite
from faults import Fault

LARGEST_CHUNK = (256 << 10) // 4  # elements (engine/block_pool.hpp)


class NonFinite(Fault):
    """The victim's gradient has a NaN and two infinities. The chunks with one go without it where
    that is a minority; of two ranks none is, and they get what they were given."""

    returns, waits = True, False
    reasons = ("nonfinite",)

    def __init__(self, case, plan):
        super().__init__(case, plan)
        (self.victim,) = plan.victims
        self.absent = case.ranks > 2
        self.bad = {"rank": self.victim, "at": nonfinite.places(case.numel)}

    def rounds_of(self, rank, rounds):
        return [rounds[0] | {"bad": self.bad}, *rounds[1:]]  # for the others: what to expect

    def strike(self, job):
        job.hooks[self.victim].release()

    def check(self, job, results, victims_results):
        everybody = results | victims_results
        for rank, rounds in everybody.items():
            assert all(got["ok"] for got in rounds), rounds
            self.first(rank, rounds[0])
            later = [got["report"]["outcome"] for got in rounds[1:]]
            assert set(later) == {"complete"}, f"rank {rank}, after the NaN: {later}"
        left_out = sum(job.ask(rank, "aftermath()")["nonfinite_dropped"] for rank in everybody)
        assert (left_out > 0) == self.absent, f"{left_out} contributions were left out"
        self.evidence["contributions left out"] = left_out

    def first(self, rank: int, got: dict) -> None:
        """The round that is hit: the victim is missing where a bad element is, and nowhere else."""
        bad = len(self.bad["at"])
        assert got["input_nonfinite"] == (bad if rank == self.victim else 0), "it was not injected"
        assert got["nonfinite"] == (0 if self.absent else bad), f"rank {rank}: {got}"
        self.evidence.setdefault("not finite in the tensors", {})[rank] = got["nonfinite"]
        report = got["report"]
        blamed = {str(self.victim): "nonfinite"} if self.absent else {}
        assert report["blamed"] == blamed, f"rank {rank} blames {report['blamed']}"
        for chunk in report["chunks"]:
            start, stop = chunk["start"], chunk["stop"]
            hits = sum(start <= index < stop for index in self.bad["at"])
            without = self.victim not in chunk["contributors"]
            assert without == (self.absent and hits > 0), f"rank {rank}: {chunk} has {hits} of them"
            assert not without or stop - start <= hits * LARGEST_CHUNK, f"rank {rank}: {chunk}"
