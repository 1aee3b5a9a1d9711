"""Ranks are killed and restarted, one after the other, during one training: nobody else restarts,
each is back soon, with the others' replica, and the training ends where one without faults does."""

import json
import random
import statistics
import sys

import midround
from cluster import Cluster, Zygote, wait_until
from figures import Figure
from test_rejoin import Job

TIMES = 20
RANKS = 4
STEP = 0.1  # seconds that a step computes
PATIENCE = 2.0
STEPS = 2  # within which who is ready is back
LOSS = 2.0  # per cent
PER_CYCLE = 45  # steps of the training for each
AFTER = 100


class Training(Job):
    def __init__(self, ranks: Cluster, compute: float, steps: int):
        super().__init__(ranks)
        self.source = midround.call(f"Learner({compute}, {steps}).run()", "learner")
        ranks.store.set("stop", str(steps))

    def restart(self, rank: int) -> None:
        self.ranks.store.delete_key(f"log/{rank}")
        super().restart(rank)

    def log(self, rank: int) -> dict:
        key = f"log/{rank}"
        store = self.ranks.store
        return json.loads(store.get(key)) if store.check([key]) else {"ready": 0.0, "steps": []}

    def digests(self, step: int) -> list:
        """Of all replicas after that step."""

        def of(rank: int):
            return next((crc for number, crc, _ in self.log(rank)["steps"] if number == step), None)

        return [wait_until(lambda r=r: of(r), what=f"step {step}") for r in range(RANKS)]


def victims(times: int, choose: random.Random) -> list:
    """All ranks equally often, rank 0 at least once."""
    out = [number % RANKS for number in range(times)]
    choose.shuffle(out)
    return out


def cycle(job: Training, victim: int, choose: random.Random) -> dict:
    ranks, other = job.ranks, (victim + 1) % RANKS
    print(f"step {job.at(other)[0]}", end="\r", file=sys.stderr, flush=True)
    job.await_step(job.at(other)[0] + choose.randrange(15, 45), other)
    ranks[victim].kill()
    killed = job.at(other)[0]
    job.restart(victim)  # at once, as papilio.run does
    job.await_joined(victim)
    mine = job.log(victim)
    joined = mine["steps"][0][0]
    digests = job.digests(joined)
    # How far the others were when it was ready: the last step that they had finished.
    steps = job.log(other)["steps"]
    before = max(number for number, _, when in steps if when <= mine["ready"])
    return {
        "victim": victim,
        "joined_at": joined,
        "missed": joined - killed,  # steps
        "steps_after_ready": joined - before,
        "seconds_after_ready": mine["steps"][0][2] - mine["ready"],
        "replicas": len(set(digests)),
    }


def train(compute: float, steps: int, whom: list, choose: random.Random) -> tuple:
    """What came of each kill and restart, and the ranks' summaries at the end."""
    with Cluster(RANKS, patience=PATIENCE) as ranks:
        job = Training(ranks, compute, steps)
        job.start()
        job.await_step(1)
        cycles = [cycle(job, victim, choose) for victim in whom]
        answers = [rank.receive(timeout=600) for rank in ranks]
        for answer in answers:
            assert answer["ok"], answer.get("trace", answer)
        summaries = [answer["result"] for answer in answers]
        for summary in summaries:
            assert summary["step"] == steps and not summary["wrong"], summary
        return cycles, summaries


def run(arguments):
    for module in ("trainer", "torch._dynamo"):  # optimizers import the latter
        Zygote.get().load(module)
    times, choose = arguments.times or TIMES, random.Random(7)
    steps = times * PER_CYCLE + AFTER
    cycles, faulty = train(STEP, steps, victims(times, choose), choose)
    _, calm = train(0.0, steps, [], choose)
    return judged(cycles, faulty, calm), {"cycles": cycles, "faulty": faulty, "calm": calm}


def judged(cycles: list, faulty: list, calm: list) -> list:
    last = {one["victim"]: one for one in cycles}
    # Who was never killed takes over nobody's state, who was restarted does so once.
    again = sum(one["evicted"] + (one["received"] != (r in last)) for r, one in enumerate(faulty))
    late = [one["steps_after_ready"] for one in cycles]
    waited = statistics.median(one["seconds_after_ready"] for one in cycles)
    split = sum(one["replicas"] != 1 for one in cycles) + (len({one["crc"] for one in faulty}) != 1)
    losses = [statistics.fmean(one["loss"] for one in group) for group in (faulty, calm)]
    apart = 100 * abs(losses[0] / losses[1] - 1)
    of = f"{len(cycles)} cycles in {faulty[0]['step']} steps of {STEP * 1e3:.0f} ms"
    wait = f"median {statistics.median(late):.0f}, {waited * 1e3:.0f} ms"
    missed = sum(one["missed"] for one in cycles)
    loss = f"{losses[0]:.5f} against {losses[1]:.5f}; {missed} steps had 3 contributors"
    return [
        Figure("rejoin", "survivors that restarted or lost their state", again, 0, note=of),
        Figure("rejoin", "steps from ready to back, most", max(late), STEPS, note=wait),
        Figure("rejoin", "rejoins after which replicas differ", split, 0),
        Figure("rejoin", "final loss apart from the fault-free run's", apart, LOSS, "%", loss),
    ]
