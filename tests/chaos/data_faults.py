"""Faults of the bytes: a gradient that is not finite, and payloads that are damaged on the way."""

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
        assert got["nonfinite"] == (0 if self.absent else bad), (rank, got["nonfinite"])
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


class Damaged(Fault):
    """A bit of each message of the phase flips behind its checksum, once: it is sent again."""

    waits, absent = False, False
    reasons = ("corrupt",)
    copies = 1  # of each message, for each receiver
    lane = "shm"

    def __init__(self, case, plan):
        super().__init__(case, plan)
        (self.victim,) = plan.victims
        text = f"{case.phase}:{plan.round}:{self.copies}"
        self.environments = {self.victim: {"PAPILIO_TEST_DAMAGE": text}}

    def prepare(self, job):
        peers = job.ask(self.victim, "aftermath()")["peers"]
        lanes = {peer["lane"] for peer in peers if peer["state"] != "self"}
        assert lanes == {self.lane}, lanes

    def strike(self, job):  # it is held with the first damaged message on its way
        job.hooks[self.victim].release()

    def check(self, job, results, victims_results):
        known = {rank: job.ask(rank, "aftermath()") for rank in range(self.case.ranks)}
        damaged = known[self.victim]["damaged"]
        rejected = {rank: known[rank]["rejected"]["corrupt"] for rank in known}
        self.evidence |= {
            "lane": self.lane,
            "bytes damaged": damaged,
            "rejected as corrupt, by rank": rejected,
        }
        assert damaged > 0, "nothing was damaged"
        assert 0 < sum(rejected.values()) <= damaged and rejected[self.victim] == 0, self.evidence
        self.first({rank: rounds[0]["report"] for rank, rounds in results.items()})

    def first(self, reports: dict) -> None:
        """The round that is hit."""
        rejected = sum(self.evidence["rejected as corrupt, by rank"].values())
        assert rejected == self.evidence["bytes damaged"], self.evidence
        for rank, report in reports.items():
            assert report["outcome"] == "complete", f"rank {rank}: {report}"


class DamagedOverTcp(Damaged):
    lane = "ucx tcp/lo"

    def __init__(self, case, plan):
        super().__init__(case, plan)
        self.own = {rank: {"transport": "ucx"} for rank in range(case.ranks)}


class DamagedForGood(Damaged):
    """The same, however often it is sent: it is not counted, and the others say why."""

    returns, absent = True, True
    copies = 1_000_000

    def first(self, reports):
        for rank, report in reports.items():
            if rank != self.victim:
                assert report["blamed"] == {str(self.victim): "corrupt"}, (rank, report["blamed"])
