"""SIGKILL to one of four ranks during a 64 MiB round: how soon the others return, and what the next
round costs beside that of a group that has three ranks from the beginning."""

import statistics

import midround
from figures import Figure

from papilio.bench.stats import ratio_of_medians

TIMES = 50
MEDIAN, LONGEST = 100, 500  # ms
NEXT = 1.05  # of a round of three
WARM, AFTER = 8, 3  # rounds
# What a survivor may know when it returns: a reducer that heard of the death before it did says who
# is missing, and the data lane may break before the kernel tells of the exit.
REASONS = ("dead", "unreachable", "slow")


def run(arguments):
    runs = midround.many(arguments.times or TIMES, lambda rank: rank.kill(), REASONS, WARM, AFTER)
    back = [seconds * 1e3 for one in runs for seconds in one["until_return"]]
    after = [one["later"][0] for one in runs]
    beside = [one["beside"][0] for one in runs]
    ratio, low, high = ratio_of_medians(after, beside, seed=1)
    ended = statistics.median(one["until_end"] for one in runs) * 1e3
    of = f"{len(runs)} kills; the kernel had ended the process after {ended:.0f} ms (median)"
    other = sum(set(one["reasons"]) != {"dead"} for one in runs)
    said = f"in {other} of the rounds somebody did not call it dead" if other else ""
    pace = (
        f"{statistics.median(after) * 1e3:.3g} ms against {statistics.median(beside) * 1e3:.3g} ms,"
        f" 95 % interval {low:.3g} to {high:.3g}"
    )
    return [
        Figure("kill", "kill to return of the others, median", statistics.median(back), MEDIAN,
               "ms", of),
        Figure("kill", "kill to return of the others, longest", max(back), LONGEST, "ms", said),
        Figure("kill", "next round / fault-free round of 3 ranks", ratio, NEXT, "x", pace),
    ], runs  # fmt: skip
