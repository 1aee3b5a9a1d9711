"""Runs one case on real processes and says what it found."""

import dataclasses
import functools
import time
import traceback

from cases import WARM_BYTES, Case, Plan, plan
from job import Job
from judge import ROUNDS, Judge
from kinds import KINDS

AGAIN_NUMEL = 1 << 18


@dataclasses.dataclass
class Outcome:
    case: Case
    seconds: float
    victims: tuple
    evidence: dict
    findings: list  # empty: ok

    def asdict(self) -> dict:
        return dataclasses.asdict(self) | {"ok": not self.findings}


class Run:
    def __init__(self, case: Case, network=None):
        self.case, self.plan = case, plan(case)
        self.fault = KINDS[case.fault](case, self.plan)
        self.network = network if self.fault.network else None
        self.base = 0.0
        self.salt = 0

    def rounds(self, sizes: list) -> list:
        out = []
        for numel in sizes:
            self.salt += 1
            out.append({"numel": numel, "salt": self.salt})
        return out

    def run(self) -> list:
        fault = self.fault
        options = {"patience": fault.patience}
        if self.plan.round == 1:
            self.base = base_of(self.case)
        job = Job(self.case.ranks, self.plan, options, fault.store, self.network, fault)
        with job:
            fault.arrange(job)
            self.warm(job)
            fault.prepare(job)
            return self.hit(job)

    def warm(self, job) -> None:
        sizes = [WARM_BYTES // 4] + [self.case.numel] * (self.plan.round - 2)
        if self.plan.round == 1:
            return
        results = job.together(range(self.case.ranks), f"series({self.rounds(sizes)!r})")
        for rank, rounds in results.items():
            for got in rounds:
                complete = got["ok"] and got["report"]["outcome"] == "complete"
                assert complete and not got["wrong"], f"without any fault, rank {rank}: {got}"
            assert rounds[-1]["report"]["seq"] == self.plan.round - 1
        self.base = max(rounds[-1]["end"] - rounds[-1]["begin"] for rounds in results.values())

    def hit(self, job) -> list:
        case, fault = self.case, self.fault
        rounds = self.rounds([case.numel] * ROUNDS)
        for rank in range(case.ranks):
            mine = fault.rounds_of(rank, rounds)
            job.begin(rank, f"series({mine!r}, stop_at_error={fault.ends(rank)})")
        for hook in job.hooks.values():
            hook.reached()
        fault.strike(job)
        struck = time.monotonic()
        judge = Judge(case, self.plan, fault, self.base)
        results = {rank: job.end(rank) for rank in sorted(judge.healthy)}
        fault.heal(job)
        late = {rank: job.end(rank) for rank in sorted(judge.victims) if fault.answers}
        fault.check(job, results, late)
        if fault.returns:
            self.complete_again(job, judge)
        thinking = judge.healthy | (judge.victims if fault.returns and not fault.network else set())
        thoughts = {rank: job.ask(rank, "aftermath()") for rank in sorted(thinking)}
        for rank, thinks in thoughts.items():
            judge.hears(rank, thinks)
            judge.aftermath(rank, thinks)
        for rank, got in (results | late).items():
            judge.rounds(rank, got, struck, results)
        fault.afterwards(job, judge, self.base)
        if judge.findings:
            judge.findings += [line.rstrip() for rank in job.ranks for line in rank.errors[-6:]]
        return judge.findings

    def complete_again(self, job, judge) -> None:
        limit = time.monotonic() + self.fault.again
        numel = min(self.case.numel, AGAIN_NUMEL)
        while time.monotonic() < limit:
            call = f"series({self.rounds([numel])!r})"
            results = job.together(range(self.case.ranks), call)
            for rank, (got,) in results.items():
                if not got["ok"] or got["wrong"]:
                    judge.found(rank, f"wrong after the fault: {got}")
                    return
            if all(got["report"]["outcome"] == "complete" for (got,) in results.values()):
                return
        judge.findings.append(f"no complete round within {self.fault.again} s after the fault")


@functools.cache
def _base_of(numel: int, ranks: int) -> float:
    sizes = [{"numel": numel, "salt": salt} for salt in (1, 2)]
    with Job(ranks, Plan(0, (), ()), {}) as job:
        results = job.together(range(ranks), f"series({sizes!r})")
    return max(rounds[-1]["end"] - rounds[-1]["begin"] for rounds in results.values())


def base_of(case: Case) -> float:
    """What such a round takes without faults, for cases that have none of their own."""
    return _base_of(case.numel, case.ranks)


def run(case: Case, network=None) -> Outcome:
    begin = time.monotonic()
    one = Run(case, network)
    try:
        findings = one.run()
    except (AssertionError, OSError, TimeoutError) as error:
        findings = [f"{type(error).__name__}: {error}", traceback.format_exc()]
    except Exception:  # noqa: BLE001 - one broken case must not end the matrix
        findings = [traceback.format_exc()]
    finally:
        if network:
            network.reset()
    seconds = time.monotonic() - begin
    return Outcome(case, seconds, one.plan.victims, one.fault.evidence, findings)
