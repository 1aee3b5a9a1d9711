"""A rank is killed in its phase, a new process takes its slot, and it counts in every average again
while nobody else is started again."""

import json

from cluster import Zygote, wait_until
from faults import Kill

APART = 3  # steps of the others before the new process is started
TOGETHER = 5  # steps with it
SLACK = 1.0
BASE = 3  # as in judge.py


class RestartAndRejoin(Kill):
    def __init__(self, case, plan):
        super().__init__(case, plan)
        Zygote.get().load("torch._dynamo")  # optimizers import it, which takes seconds

    def arrange(self, job):
        call = f"attach({self.case.numel})"
        self._pids = job.together(range(self.case.ranks), call, module="training")

    def afterwards(self, job, judge, base):
        self.job, self.judge = job, judge
        (victim,) = self.plan.victims
        survivors = sorted(set(range(job.n)) - {victim})
        for rank in survivors:
            job.begin(rank, "train()", module="training")
        self.wait_until(survivors, lambda: self.at(survivors[0])[0] >= APART, "they train")
        began = self.come_back(victim, survivors)
        last = max(self.at(rank)[0] for rank in range(job.n)) + TOGETHER
        job.store.set("stop", str(last))
        ends = {rank: job.end(rank) for rank in range(job.n)}
        joined, longest = ends[victim]["joined_at"], max(ends[r]["longest"] for r in survivors)
        self.evidence["let in"] = f"at step {joined} of {last}, having begun when it was {began}"
        self.evidence["longest step of the others"] = f"{longest:.2f} s"
        limit = self.patience + SLACK + BASE * base
        if longest > limit:
            judge.findings.append(f"a step took {longest:.2f} s, {limit:.2f} allowed")
        for rank, end in ends.items():
            self.ended(rank, end, joined, last, rank == victim)
        self.together(ends)

    def come_back(self, victim: int, survivors: list) -> int:
        """Ends when it has been let in; at which step the others were when it began to train."""
        self.job.restart(victim)
        self.job.ask(victim, f"attach({self.case.numel})", module="training")
        began = self.at(survivors[0])[0]
        self.job.begin(victim, "train()", module="training")
        everybody = range(self.job.n)
        self.wait_until(everybody, lambda: self.at(victim)[1] and self.at(victim)[2], "it is in")
        return began

    def at(self, rank: int) -> list:
        """(step, joined, view) as the rank last said."""
        store, key = self.job.store, f"at/{rank}"
        return json.loads(store.get(key)) if store.check([key]) else [0, False, 0]

    def wait_until(self, ranks, condition, what: str) -> None:
        def reached():
            for rank in ranks:  # they are to train until they are told to stop
                ended = self.job.ranks[rank].answered()
                assert not ended, f"rank {rank} trains no more: {self.job.end(rank)}"
            return condition()

        wait_until(reached, 30, what)

    def ended(self, rank: int, end: dict, joined: int, last: int, new: bool) -> None:
        found = self.judge.found
        outcomes = {int(step): what for step, what in end["outcomes"].items()}
        with_it = {step: outcomes.get(step) for step in range(joined, last)}
        if len(with_it) < TOGETHER or set(with_it.values()) != {"complete"}:
            found(rank, f"not complete with the new process: {with_it}")
        if end["wrong"]:
            found(rank, f"wrong or failed rounds: {end['wrong']}")
        if end["step"] != last:
            found(rank, f"ended at step {end['step']}, not {last}")
        # The first one, which it died in before any boundary, one without it, one with it again.
        if end["views"] != ([3] if new else [1, 2, 3]):
            found(rank, f"was in views {end['views']}")
        if (self._pids[rank] == end["pid"]) == new:
            found(rank, f"is process {end['pid']}, was {self._pids[rank]}")
        if end["received"] != int(new):
            found(rank, f"took over the state of others {end['received']} times")

    def together(self, ends: dict) -> None:
        """On all ranks: equal replicas, everybody live."""
        digests = {rank: end["crc"] for rank, end in ends.items()}
        if len(set(digests.values())) != 1:
            self.judge.findings.append(f"replicas differ: {digests}")
        for rank in range(self.job.n):
            thinks = self.job.ask(rank, "aftermath()")
            states = {peer["rank"]: peer["state"] for peer in thinks["peers"]}
            if set(states.values()) - {"live", "self"} or thinks["blacklist"]:
                self.judge.found(rank, f"after all: {states}, blacklist {thinks['blacklist']}")
