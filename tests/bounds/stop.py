"""SIGSTOP to one of four ranks during a 64 MiB round, for ever, with default options: what that
round costs the others, and the rounds after it beside those of a group of three."""

import signal
import statistics
import time

import midround
from cluster import wait_until
from faults import stopped
from figures import Figure

from papilio.bench.stats import ratio_of_medians

TIMES = 10
HIT = 1.0  # seconds on top of three normal rounds
LATER = 1.1  # of a round of three
WARM, AFTER = 25, 10  # rounds; what members usually need is known after 20


def strike(rank) -> float:
    moment = time.monotonic()
    rank.signal(signal.SIGSTOP)
    wait_until(lambda: stopped(rank.pid), 5, "SIGSTOP")
    return moment


def run(arguments):
    reasons = ("slow", "blacklisted")
    runs = midround.many(arguments.times or TIMES, strike, reasons, WARM, AFTER)
    beyond = [one["hit"] - 3 * one["normal"] for one in runs]
    hit, normal = (statistics.median(one[key] for one in runs) for key in ("hit", "normal"))
    later, beside = ([s for one in runs for s in one[key]] for key in ("later", "beside"))
    ratio, low, high = ratio_of_medians(later, beside, seed=1)
    pace = (
        f"{statistics.median(later) * 1e3:.3g} ms against {statistics.median(beside) * 1e3:.3g} ms,"
        f" 95 % interval {low:.3g} to {high:.3g}"
    )
    of = f"{len(runs)} stops; median {hit:.3g} s, a normal round {normal * 1e3:.3g} ms"
    return [
        Figure("stop", "hit round less 3 normal rounds, longest", max(beyond), HIT, "s", of),
        Figure("stop", "later rounds / fault-free rounds of 3 ranks", ratio, LATER, "x", pace),
    ], runs
