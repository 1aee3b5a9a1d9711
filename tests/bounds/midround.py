"""A fault in the middle of a 64 MiB round of four ranks, beside a group of three without faults.

The four are made anew for each time. Both groups take turns, so that what else the machine does
meets both alike.
"""

import os
import random
import statistics
import sys
import threading
import time

from cluster import Cluster, RankDied
from test_kill import NUMEL, explained

HERE = os.path.dirname(os.path.abspath(__file__))
RANKS = 4
TRIES = 5  # per fault that is to hit a rank in its call


def call(text: str, module: str = "rounds") -> str:
    """Source for a rank: a function of that module of this folder."""
    path = f"import sys; {HERE!r} in sys.path or sys.path.insert(0, {HERE!r})\n"
    return f"{path}import {module}\nresult = {module}.{text}"


def duration(times: list) -> float:
    """From the last one's call to the last one's return."""
    return max(t["end"] for t in times) - max(t["begin"] for t in times)


class Group:
    """Salts: 0 is the round that is hit, 1 and so on those after it."""

    def __init__(self, n: int, warm_rounds: int, after: int):
        self.ranks = Cluster(n)
        self.after = after
        self.everybody = list(range(n))
        self.warm_rounds = warm_rounds

    def __enter__(self):
        try:
            self.ranks.start()
            took = self.ranks.run(call(f"warm({NUMEL}, {self.warm_rounds})"), timeout=120)
            # The first rounds pay for memory that is new.
            self.normal = statistics.median(max(t) for t in list(zip(*took, strict=True))[2:])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for rank in self.ranks:
            rank.end()

    def prepare(self, victim: int | None = None) -> None:
        """The victim has no more than it needs: the kernel frees its memory before it tells
        anybody of its end."""
        for rank in self.everybody:
            salts = [0] if rank == victim else list(range(self.after + 1))
            self.ranks[rank].run(call(f"prepare({NUMEL}, {salts})"), timeout=120)

    def round(self, salt: int, chosen=None) -> float:
        return duration(self.ranks.run(call(f"one({salt})"), ranks=chosen))

    def judged(self, salt: int, chosen: list) -> dict:
        answers = self.ranks.run(call(f"judge({salt})"), ranks=chosen, timeout=120)
        return dict(zip(chosen, answers, strict=True))

    def rounds_after(self, chosen: list) -> list:
        return [self.round(salt, chosen) for salt in range(1, self.after + 1)]

    def all_rounds(self) -> list:
        """The same without a fault; the first one is judged."""
        self.prepare()
        self.round(0)
        seconds = self.rounds_after(self.everybody)
        for answer in self.judged(0, self.everybody).values():
            assert answer["report"]["outcome"] == "complete" and not answer["wrong"], answer
        self.ranks.run(call("forget()"))
        return seconds


class Hit:
    """One fault: its ``moment``, when it was seen to have happened, ``times`` of the others'
    calls."""

    def __init__(self, group: Group, victim: int, strike, reasons: tuple):
        self.group, self.victim, self.reasons = group, victim, reasons
        self.others = [r for r in group.everybody if r != victim]
        self.moment = self.ended = 0.0
        self._strike = strike

    def run(self, delay: float) -> bool:
        """False: the victim had returned before, so that nothing was proven."""
        ranks = self.group.ranks
        timer = threading.Timer(delay, self._fire)
        for rank in ranks:
            rank.send("collective", source=call("one(0, announce=True)"))
        for rank in ranks:
            assert rank.receive() == {"announce": True}
        timer.start()
        self.times = []
        for rank in self.others:
            assert ranks[rank].receive() == {"returned": True}
            answer = ranks[rank].receive()
            assert answer["ok"], answer
            self.times.append(answer["result"])
        timer.join()
        return not self._had_returned()

    def _had_returned(self) -> bool:
        """Did the victim's call return before it was hit? Then it has said so."""
        victim = self.group.ranks[self.victim]
        try:
            return victim.answered() and bool(victim.receive())
        except RankDied:
            return False

    def _fire(self) -> None:
        self.moment = self._strike(self.group.ranks[self.victim])
        self.ended = time.monotonic()

    def judge(self) -> None:
        """Values are what the reports say, and only the victim is missing, for that reason."""
        answers = self.group.judged(0, self.others)
        explained(self.group.ranks, answers, self.victim, self.reasons)
        self.blamed = [a["report"]["blamed"].get(str(self.victim), "") for a in answers.values()]
        lines = [line for rank in self.others for line in self.group.ranks[rank].errors]
        self.said = [line for line in lines if f"peer {self.victim} " in line]
        for salt in range(1, self.group.after + 1):
            answers = self.group.judged(salt, self.others)
            explained(self.group.ranks, answers, self.victim, self.reasons)
            for answer in answers.values():
                assert set(answer["report"]["blamed"]) == {str(self.victim)}, answer["report"]


def once(three: Group, strike, reasons: tuple, warm_rounds: int, chance, three_first: bool):
    """One fault and its neighbour; None when the victim was not hit in its call."""
    beside = three.all_rounds() if three_first else None
    with Group(RANKS, warm_rounds, three.after) as four:
        hit = Hit(four, chance.randrange(RANKS), strike, reasons)
        four.prepare(hit.victim)
        if not hit.run(chance.random() * 0.9 * four.normal):
            return None
        later = four.rounds_after(hit.others)
        hit.judge()
        if beside is None:
            beside = three.all_rounds()
        return {
            "victim": hit.victim,
            "normal": four.normal,
            "until_end": hit.ended - hit.moment,
            "until_return": [t["end"] - hit.moment for t in hit.times],
            "hit": max(t["end"] - t["begin"] for t in hit.times),
            "reasons": hit.blamed,
            "said": hit.said,
            "later": later,
            "beside": beside,
        }


def many(times: int, strike, reasons: tuple, warm_rounds: int, after: int) -> list:
    chance = random.Random(5)
    found: list = []
    with Group(RANKS - 1, warm_rounds, after) as three:
        for number in range(TRIES * times):
            print(f"{len(found)} of {times}", end="\r", file=sys.stderr, flush=True)
            one = once(three, strike, reasons, warm_rounds, chance, number % 2 == 0)
            if one is not None:
                found.append(one)
            if len(found) == times:
                return found
    raise AssertionError(f"hit in the call only {len(found)} times of {TRIES * times}, not {times}")
