"""SIGKILL and SIGSTOP of each role before, inside, during and after every strict collective.

One collective of each kind is in flight on a group of its own (roles.py), so one fault hits all of
them. Each live rank ends with the right value, or with an error that names the victim and nobody
else; where the victim's part was needed there is no value. Then a new group over the survivors
works, and the victim, when it was only frozen, is part of the next one.
"""

import contextlib
import os
import random
import signal
import threading
import time

import pytest
import roles
from cluster import SOAK, Cluster, RankDied, wait_until

N = 4
SMALL = 500  # elements of int32
LARGE = 3_000_000 if SOAK else 500_000
HARD = 1.0  # seconds, for thirteen collectives at once
SOFT = 2.0  # the groups' timeout, in tests with a frozen rank
ROOM = 2.0  # seconds beyond that timeout
REPEAT = 10 if SOAK else 1

# Whose part everybody needs, whatever the victim's role, and what needs it only as the root.
NEED_ALL = {"all_gather", "reduce_scatter", "all_to_all", "gather"}
NEED_ROOT = {"broadcast", "scatter", "reduce"}
POINT_TO_POINT = {"send", "recv"}


class Story:
    """Who plays what: a victim, the root, a rank that comes late, the peer of send and recv."""

    def __init__(self, victim: int, is_root: bool):
        self.victim = victim
        self.survivors = [r for r in range(N) if r != victim]
        self.peer, self.late = self.survivors[0], self.survivors[1]
        self.root = victim if is_root else self.survivors[2]
        self.is_root = is_root

    def roles(self) -> dict:
        return {"victim": self.victim, "root": self.root, "peer": self.peer}

    def must_fail(self, kind: str) -> bool:
        return kind in NEED_ALL or kind in POINT_TO_POINT or (self.is_root and kind in NEED_ROOT)


STORIES = [Story(0, True), Story(3, False)]
if SOAK:
    STORIES += [Story(3, True), Story(0, False), Story(1, True), Story(2, False)]


def name(story: Story) -> str:
    return f"{'root' if story.is_root else 'other'}{story.victim}"


def prepare(ranks, story: Story, timeout: float, label: str) -> None:
    make = f"result = roles.groups({roles.KINDS}, {list(range(N))}, {timeout}, '{label}')"
    assert ranks.run("import roles\n" + make) == [len(roles.KINDS)] * N


def start(story: Story, numel: int, announce: bool = False) -> str:
    return f"import roles\nroles.start({story.roles()}, {numel}, {announce})\n"


INSIDE = "result = roles.inside()"
FINISH = "import roles\nresult = roles.finish()"


def judge(ranks, story: Story, answers: dict, since: float, limit: float, reasons: set) -> dict:
    """Every outcome on every survivor is right, in time; returns {kind: {rank: outcome}}."""
    by_kind: dict = {}
    for rank, outcomes in answers.items():
        for kind, outcome in outcomes.items():
            if outcome is None:
                continue
            context = (kind, rank, name(story), outcome)
            by_kind.setdefault(kind, {})[rank] = outcome
            assert outcome["error" if not outcome["ok"] else "right"], context
            if not outcome["ok"]:
                assert outcome["error"] in ("PeerFailed", "DeadlineExceeded"), context
                assert outcome["ranks"] == [story.victim], context
                assert outcome["reason"] in reasons, context
                assert f"rank {story.victim}" in outcome["text"], context
            took = outcome["end"] - max(since, outcome["begun"])
            assert took < limit, (took, context)
    for kind, outcomes in by_kind.items():  # those that have a value agree on whose
        if kind.startswith("all_reduce"):
            values = {str(o["contributors"]) for o in outcomes.values() if o["ok"]}
            assert len(values) <= 1, (kind, outcomes)
    return by_kind


def survive(ranks, story: Story) -> None:
    source = f"import roles\nresult = roles.go_on({story.survivors}, 'survivors', 1000)"
    assert ranks.run(source, ranks=story.survivors) == [True] * (N - 1)


def collect(ranks, who: list) -> dict:
    return {r: ranks[r].run(FINISH) for r in who}


def send_finish(ranks, who: list) -> dict:
    answers = ranks.run(FINISH, ranks=who)
    return dict(zip(who, answers, strict=True))


def strike(ranks, story: Story, number) -> float:
    moment = time.monotonic()
    if number == signal.SIGKILL:
        return ranks[story.victim].kill()
    ranks[story.victim].signal(number)
    pid = ranks[story.victim].pid
    wait_until(lambda: set(states(pid)) == {"T"}, what="the stop of all its threads")
    return moment


def states(pid: int) -> list:
    """The state of each thread: T when it is stopped."""
    out = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/stat") as file:
            out.append(file.read().rsplit(")", 1)[1].split()[0])
    return out


def thaw(ranks, story: Story, pending: bool) -> None:
    """The victim's own calls end, and everybody meets in a new group."""
    ranks[story.victim].signal(signal.SIGCONT)
    if pending:
        for kind, outcome in ranks[story.victim].run(FINISH).items():
            if outcome is None:
                continue
            context = (kind, name(story), outcome)
            assert outcome["right"] if outcome["ok"] else outcome["error"] != "still waiting", (
                context
            )
    source = f"import roles\nresult = roles.go_on({list(range(N))}, 'all', 2000)"
    assert ranks.run(source) == [True] * N


def known_dead(ranks, story: Story) -> None:
    ask = f"import roles\nresult = roles.knows({story.victim})"
    wait_until(
        lambda: all(ranks.run(ask, ranks=story.survivors)), timeout=5, what="news of the death"
    )


def next_call(ranks, story: Story, number, since: float = 0.0) -> None:
    """The victim is out before anybody enters."""
    killed = number == signal.SIGKILL
    if killed:
        known_dead(ranks, story)
    ranks.run(start(story, SMALL), ranks=story.survivors)
    answers = send_finish(ranks, story.survivors)
    limit = HARD if killed else SOFT + ROOM
    reasons = {"dead"} if killed else {"unreachable"}
    by_kind = judge(ranks, story, answers, since, limit, reasons)
    for kind, outcomes in by_kind.items():
        failed = {rank for rank, outcome in outcomes.items() if not outcome["ok"]}
        if kind == "tolerant_broadcast":
            assert not failed or not killed, outcomes
        elif not killed or story.must_fail(kind):
            assert failed == set(outcomes), (kind, outcomes)
        else:  # over the live members
            assert not failed, (kind, outcomes)
        if not killed and kind != "tolerant_broadcast":
            errors = {outcome["error"] for outcome in outcomes.values()}
            assert "DeadlineExceeded" in errors, outcomes


@pytest.mark.timeout(900 if SOAK else 60)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
@pytest.mark.parametrize("story", STORIES, ids=name)
def test_before(story, number):
    for _ in range(REPEAT):
        with Cluster(N) as ranks:
            prepare(ranks, story, 60 if number == signal.SIGKILL else SOFT, "before")
            strike(ranks, story, number)
            next_call(ranks, story, number)
            survive(ranks, story)
            if number == signal.SIGSTOP:
                thaw(ranks, story, pending=False)


@pytest.mark.timeout(900 if SOAK else 60)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
@pytest.mark.parametrize("story", STORIES, ids=name)
def test_inside(story, number):
    """Everybody but one has entered; the victim is seen to be in each of them when it is hit."""
    killed = number == signal.SIGKILL
    for _ in range(REPEAT):
        with Cluster(N) as ranks:
            prepare(ranks, story, 60 if killed else SOFT, "inside")
            early = [r for r in range(N) if r != story.late]
            ranks.run(start(story, SMALL), ranks=early)
            # A send and its receive may be through; everything else waits for the late one.
            everything = set(roles.KINDS) - POINT_TO_POINT
            assert everything <= set(ranks[story.victim].run("import roles\n" + INSIDE))
            since = strike(ranks, story, number)
            if killed:
                known_dead(ranks, story)
            ranks.run(start(story, SMALL), ranks=[story.late])
            answers = send_finish(ranks, story.survivors)
            limit = HARD if killed else SOFT + ROOM
            reasons = {"dead"} if killed else {"unreachable"}
            # Who waits in vain since before the death counts from there.
            by_kind = judge(ranks, story, answers, since, limit, reasons)
            for kind, outcomes in by_kind.items():
                if kind in POINT_TO_POINT or not story.must_fail(kind):
                    continue
                if killed:
                    assert not any(o["ok"] for o in outcomes.values()), (kind, outcomes)
                elif kind != "gather" and kind != "reduce":
                    assert not outcomes[story.late]["ok"], (kind, outcomes)
            if killed:
                assert all(outcome["ok"] for outcome in by_kind["barrier"].values())
            survive(ranks, story)
            if not killed:
                thaw(ranks, story, pending=True)


def words(rank, until=None) -> list:
    """What the victim said: until an answer, or until it was dead."""
    out = []
    with contextlib.suppress(RankDied, TimeoutError):
        while True:
            word = rank.receive(timeout=0.2 if until is None else 20)
            if "ok" in word:
                return out
            out.append(word)
    return out


def returned(announced: list) -> set:
    return {word["returned"] for word in announced if "returned" in word}


def answer_of(rank, timeout: float = 60):
    """The answer to a command, past what is announced between."""
    while True:
        word = rank.receive(timeout)
        if "ok" in word:
            assert word["ok"], word
            return word["result"]


def in_the_middle(story: Story, number, chance) -> set:
    """All ranks have large ones in flight when it happens; which of them it hit."""
    killed = number == signal.SIGKILL
    with Cluster(N) as ranks:
        prepare(ranks, story, 60 if killed else SOFT + 2, "during")
        begun = time.monotonic()
        ranks.run(start(story, LARGE))
        ranks.run(FINISH)
        whole = time.monotonic() - begun
        for rank in ranks:
            rank.send("collective", source=start(story, LARGE, announce=True))
        assert ranks[story.victim].receive(timeout=20)["begun"]
        moments: list = []
        delay = chance.random() * 0.7 * whole
        timer = threading.Timer(delay, lambda: moments.append(strike(ranks, story, number)))
        timer.start()
        timer.join()
        since = moments[0]
        said = words(ranks[story.victim]) if killed else []
        for rank in story.survivors:
            answer_of(ranks[rank])
            ranks[rank].send("collective", source=FINISH)
        answers = {rank: answer_of(ranks[rank]) for rank in story.survivors}
        limit = HARD + whole if killed else SOFT + 2 + ROOM + whole
        judge(ranks, story, answers, since, limit, {"dead"} if killed else {"unreachable"})
        survive(ranks, story)
        if killed:
            # It had entered those that were in flight or done; the rest it had not said.
            return set(roles.KINDS) - returned(said)
        failed = {k for a in answers.values() for k, o in a.items() if o and not o["ok"]}
        ranks[story.victim].signal(signal.SIGCONT)
        answer_of(ranks[story.victim])
        ranks[story.victim].send("collective", source=FINISH)
        answer_of(ranks[story.victim])
        return failed


@pytest.mark.timeout(1800 if SOAK else 120)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
@pytest.mark.parametrize("story", STORIES, ids=name)
def test_during(story, number):
    """At a random moment, until the victim was in some of them (long form: in each of them)."""
    chance = random.Random(time.time_ns())
    wanted = set(roles.KINDS) if SOAK else set()
    hit: set = set()
    for _ in range(40 if SOAK else 12):
        hit |= in_the_middle(story, number, chance)
        if hit and hit >= wanted:
            print(f"{name(story)}: hit in {sorted(hit)}")
            return
    raise AssertionError(f"the victim was only hit in {sorted(hit)}")


@pytest.mark.timeout(900 if SOAK else 60)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
@pytest.mark.parametrize("story", STORIES, ids=name)
def test_after(story, number):
    """The victim has returned from all of them, the others perhaps not; then the next ones."""
    killed = number == signal.SIGKILL
    for _ in range(REPEAT):
        with Cluster(N) as ranks:
            prepare(ranks, story, 60 if killed else SOFT, "after")
            for rank in ranks:
                rank.send("collective", source=start(story, SMALL) + "result = roles.finish()")
            for outcome in answer_of(ranks[story.victim]).values():
                assert outcome is None or (outcome["ok"] and outcome["right"])
            since = strike(ranks, story, number)
            answers = {rank: answer_of(ranks[rank]) for rank in story.survivors}
            limit = HARD if killed else SOFT + ROOM
            judge(ranks, story, answers, since, limit, {"dead"} if killed else {"unreachable"})
            next_call(ranks, story, number)
            survive(ranks, story)
            if not killed:
                thaw(ranks, story, pending=False)
