"""What is done to the victims while they are held in their phase, and the proof that it was done.

``strike`` runs when all victims are held; it lets go of them itself where they go on. ``heal`` runs
when the survivors are through with their rounds. Both add to ``evidence``; an AssertionError says
that the fault did not happen, which is a failed case whatever the ranks did.
"""

import contextlib
import pathlib
import signal
import threading
import time

from cases import WARM_BYTES

PATIENCE = 1.0
SHORT = 0.5  # patience of cases in which a second of absence is to be too long
ABSENCE = 1.0  # seconds
SLOW_RATE = "1mbit"
RATE_FLOOR = 1e6  # bytes per second; what comes slower than this is too slow
DROP_PERCENT = 2


class Fault:
    patience = PATIENCE
    hard = False  # the victims are gone at once, for everybody
    returns = False  # the victims take part again afterwards
    absent = True  # the victims may be missing in results
    reasons: tuple = ()  # that a report may give for them
    waits = True  # the others may have to wait for the victims once
    network = False
    store = "outside"

    def __init__(self, case, plan):
        self.case, self.plan = case, plan
        self.evidence: dict = {}
        self.own: dict = {}  # options by rank
        self.environments: dict = {}  # further variables by rank

    answers = True  # the victims answer in the end
    stays_slow = False  # the others may have to wait for the victims more than once
    transfer = 0.0  # seconds on top that bytes may take to trickle through
    again = 10.0  # seconds until everybody counts in every average again
    mutual = False  # who is well may go around the victim, and be gone around by it

    def arrange(self, job) -> None:
        """Before the first round."""

    def prepare(self, job) -> None:
        """Before the round that is hit, after the fault-free ones."""

    def rounds_of(self, rank: int, rounds: list) -> list:
        """What that rank runs from the round on that is hit."""
        return rounds

    def strike(self, job) -> None:
        raise NotImplementedError

    def heal(self, job) -> None:
        pass

    def check(self, job, results: dict, victims_results: dict) -> None:
        """Further proof, from what the ranks answered."""

    def afterwards(self, job, judge, base: float) -> None:
        """What comes after all that is judged otherwise; ``base`` as in judge.py."""

    def ends(self, rank: int) -> bool:
        """Does that rank enter no further round after an error?"""
        return rank in self.plan.victims

    def expects_error(self, rank: int, number: int) -> bool:
        """May that call (0: the one that is hit) end with an error?"""
        return False

    def victim_limit(self) -> float:
        """Seconds that a call of a victim may take that answers."""
        return self.patience + ABSENCE + self.transfer


class Kill(Fault):
    hard, answers, reasons = True, False, ("dead",)

    def strike(self, job):
        for victim in self.plan.victims:
            job.ranks[victim].kill()
            assert job.ranks[victim].status == -signal.SIGKILL
            self.evidence[f"rank {victim}"] = "killed while held"


class KillRank0(Kill):
    store = "rank0"


class Exit(Fault):
    hard, answers, reasons = True, False, ("dead",)

    def strike(self, job):
        (victim,) = self.plan.victims
        job.hooks[victim].order("exit")
        status = job.ended(victim, 10)
        assert status == 7, f"it should have exited with 7, not {status}"
        self.evidence["exit status"] = status


class Leave(Fault):
    hard, reasons = True, ("left",)

    def strike(self, job):
        job.hooks[self.plan.victims[0]].order("leave")

    def expects_error(self, rank, number):
        return rank in self.plan.victims

    def check(self, job, results, victims_results):
        """It leaves between two steps of its engine: a tensor of one chunk may be through then."""
        ((victim, rounds),) = victims_results.items()
        assert job.ask(victim, "ASKED_TO_LEAVE") == [True], "it was not held when it left"
        assert not rounds[-1]["ok"], f"it went on after it had left: {rounds[-1]}"
        outcome = "complete" if rounds[0]["ok"] else rounds[0]["error"]
        self.evidence["destroy_process_group() while held"] = f"its own call: {outcome}"


def stopped(pid: int) -> bool:
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return all((t / "stat").read_text().rpartition(")")[2].split()[0] == "T" for t in tasks)


def stop(job, victim: int) -> None:
    job.ranks[victim].signal(signal.SIGSTOP)
    limit = time.monotonic() + 5
    while not stopped(job.ranks[victim].pid):
        assert time.monotonic() < limit, "SIGSTOP did not stop it"
    job.hooks[victim].release()  # it reads that when it is continued


class Stop(Fault):
    answers = False
    reasons = ("slow", "blacklisted")

    def strike(self, job):
        (victim,) = self.plan.victims
        stop(job, victim)
        self.evidence["stopped"] = "all threads in state T while held"

    def heal(self, job):
        assert stopped(job.ranks[self.plan.victims[0]].pid)


class StopShortly(Stop):
    patience, returns, answers, stays_slow = SHORT, True, True, True

    def strike(self, job):
        super().strike(job)
        (victim,) = self.plan.victims
        self._timer = threading.Timer(ABSENCE, job.ranks[victim].signal, (signal.SIGCONT,))
        self._begin = time.monotonic()
        self._timer.start()

    def heal(self, job):
        self._timer.join()
        self.evidence["seconds stopped"] = round(time.monotonic() - self._begin, 2)
        assert not stopped(job.ranks[self.plan.victims[0]].pid)


class Straggler(Fault):
    patience, returns, stays_slow = SHORT, True, True
    reasons = ("slow", "blacklisted")

    def rounds_of(self, rank, rounds):
        if rank not in self.plan.victims:
            return rounds
        return [rounds[0] | {"compute": ABSENCE}, *rounds[1:]]

    def strike(self, job):  # the hook is reached when it comes, a second late
        job.hooks[self.plan.victims[0]].release()

    def check(self, job, results, victims_results):
        (rounds,) = victims_results.values()
        behind = rounds[0]["begin"] - max(r[0]["begin"] for r in results.values())
        assert behind > ABSENCE / 2, f"it entered only {behind} s after the others"
        self.evidence["seconds late"] = round(behind, 2)


class TwoAtOnce(Fault):
    """One is killed, one stands still for ever, in the same moment."""

    answers = False
    reasons = ("dead", "slow", "blacklisted")

    def strike(self, job):
        killed, frozen = self.plan.victims
        job.ranks[killed].signal(signal.SIGKILL)
        stop(job, frozen)
        assert job.ranks[killed].wait() == -signal.SIGKILL
        self.evidence["at once"] = f"rank {killed} killed, rank {frozen} stopped, both held"


class WrongSchema(Fault):
    reasons = ("schema",)

    def rounds_of(self, rank, rounds):
        if rank not in self.plan.victims:
            return rounds
        wrong = [rounds[0] | self.changed(rounds[0])]
        return wrong + (rounds[1:] if self.tie else [])

    def ends(self, rank):
        return not self.tie and rank in self.plan.victims

    @property
    def tie(self) -> bool:
        """One against one: an error for both, and nobody is out for it."""
        return self.case.ranks == 2

    def changed(self, first: dict) -> dict:
        return {}

    def expects_error(self, rank, number):
        return number == 0 and (self.tie or rank in self.plan.victims)

    def strike(self, job):
        job.hooks[self.plan.victims[0]].release()

    def check(self, job, results, victims_results):
        (rounds,) = victims_results.values()
        error = rounds[0]
        assert error.get("error") == "SchemaMismatch", error
        assert error["untouched"], "its tensor was changed by a call that failed"
        assert error["mine"] != error["theirs"]
        self.evidence["error"] = f"{error['mine']} against {error['theirs']}"


class WrongNumel(WrongSchema):
    def changed(self, first):
        return {"numel": first["numel"] + 1}


class WrongDtype(WrongSchema):
    def changed(self, first):
        return {"dtype": "float64"}


class WrongFingerprint(WrongSchema):
    def __init__(self, case, plan):
        super().__init__(case, plan)
        everybody = {rank: {"fingerprint": "right"} for rank in range(case.ranks)}
        self.own = everybody | {plan.victims[0]: {"fingerprint": "wrong"}}

    def expects_error(self, rank, number):
        return self.tie or rank in self.plan.victims  # in every round


class Garbage(Fault):
    absent = False

    def prepare(self, job):
        known = [job.ask(rank, "aftermath()") for rank in (0, 1)]
        self._rejected = sum(known[0]["rejected"].values())
        addresses = [peer["address"] for peer in known[0]["peers"]]
        addresses[0] = known[1]["peers"][0]["address"]
        split = [text.rsplit(":", 1) for text in addresses]
        self._places = [(host, int(port)) for host, port in split]

    def strike(self, job):
        from test_stranger import strangers  # tests/python

        held = self.plan.victims[0]
        # The held rank answers nobody until it goes on: garbage for the others while it is held.
        self._open = [s for r, p in enumerate(self._places) if r != held for s in strangers(p)]
        job.hooks[held].release()
        self._open += strangers(self._places[held])
        self.evidence["strangers"] = len(self._open)

    def heal(self, job):
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.close()
        after = sum(job.ask(0, "aftermath()")["rejected"].values())
        self.evidence["counted by rank 0"] = after - self._rejected
        assert after > self._rejected, "rank 0 did not notice any stranger"


class StoreKilled(Fault):
    absent = False
    store = "process"

    def strike(self, job):
        job.store_rank.kill()
        assert job.store_rank.status == -signal.SIGKILL
        self.evidence["store"] = "its process was killed while the rank was held"
        job.hooks[self.plan.victims[0]].release()


class LinkFault(Fault):
    """Of the victim's link. Whoever is cut off may be taken for slow, dead or unreachable."""

    network, stays_slow = True, True
    reasons = ("slow", "dead", "unreachable", "blacklisted")

    def arrange(self, job):
        (self.victim,) = self.plan.victims
        self._sent = job.network.sent(self.victim)

    def prepare(self, job):
        # The data of the rounds so far went through the link, so what hits it hits the data lane.
        sent = job.network.sent(self.victim) - self._sent
        assert sent > WARM_BYTES // 2, f"only {sent} bytes went over the link"
        self.evidence["bytes over the link"] = sent
        peers = job.ask(self.victim, "aftermath()")["peers"]
        (lane,) = {peer["lane"] for peer in peers if peer["state"] != "self"}
        assert lane == "ucx tcp/eth0", lane
        self.evidence["lane"] = lane

    def strike(self, job):
        self.hit(job.network)
        job.hooks[self.victim].release()

    def heal(self, job):
        self.mend(job.network)


class SlowLink(LinkFault):
    returns = True
    again = 30.0  # the kernel has lost most packets, and waits long before it sends them again

    def __init__(self, case, plan):
        super().__init__(case, plan)
        # docs/protocol.md, Deadlines: what is sent to each reducer, and what comes from one.
        size = case.numel * 4
        self.mutual = case.ranks == 2  # neither can tell whose link it is
        self.transfer = size * (1 + 1 / case.ranks) / RATE_FLOOR

    def hit(self, network):
        network.limit(self.victim, SLOW_RATE)

    def mend(self, network):
        waited = network.limited(self.victim)
        self.evidence["packets that waited"] = waited
        network.reset()
        assert waited > 0, "the limit was never reached"


class Dropping(LinkFault):
    directions = ("input", "output")
    rule = ""

    def hit(self, network):
        network.drop(self.victim, self.directions, self.rule)

    def mend(self, network):
        dropped = network.dropped(self.victim)
        self.evidence["packets dropped"] = dropped
        assert sum(dropped.values()) > 0 and set(dropped) == set(self.directions), dropped


class StalledLink(Dropping):
    pass


class OneWay(Dropping):
    directions = ("output",)


class RandomDrop(Dropping):
    returns = True
    rule = f"numgen random mod 100 < {DROP_PERCENT}"

    def mend(self, network):
        super().mend(network)
        network.reset()


class LinkDownAndUp(LinkFault):
    returns = True

    def hit(self, network):
        network.unplug(self.victim)
        assert not network.has_carrier(self.victim)
        self._begin = time.monotonic()

    def mend(self, network):
        left = self._begin + ABSENCE - time.monotonic()
        if left > 0:
            threading.Event().wait(left)
        network.reset()
        self.evidence["seconds without carrier"] = round(time.monotonic() - self._begin, 2)
