"""Nobody is accused in fault-free rounds, whatever the machine does: strikes, blacklistings, events
against somebody and incomplete rounds, of all ranks together, with default options."""

import sys

import midround
from cluster import Cluster
from figures import Figure
from loads import Hog, Nothing, Pauses

RANKS = 8
MEAN, DEVIATION = 2e-3, 0.5e-3  # seconds that a rank computes before a round
TIMES = 3  # the deviation of the one that varies more
# Name, ranks, what goes on beside them, who computes with a larger deviation.
CASES = (
    ("8 ranks", Nothing, ()),
    ("8 ranks beside a CPU hog", Hog, ()),
    ("one of 8 ranks: 3 x deviation of compute time", Nothing, (RANKS - 1,)),
    ("300 ms pauses of random ranks", Pauses, ()),
)
_ROUND_LIMIT = 0.5  # seconds that a round may take in the mean, pauses included


def measure(rounds: int, load, varying: tuple) -> dict:
    with Cluster(RANKS) as ranks:
        with load(ranks) as beside:
            for rank in ranks:
                deviation = DEVIATION * (TIMES if rank.rank in varying else 1)
                source = midround.call(f"series({rounds}, {MEAN}, {deviation})", "faultless")
                rank.send("collective", source=source)
            limit = 120 + rounds * _ROUND_LIMIT
            answers = [rank.receive(timeout=limit) for rank in ranks]
        for answer in answers:
            assert answer["ok"], answer.get("trace", answer)
        seen = [answer["result"] for answer in answers]
        said = [line for rank in ranks for line in rank.errors]
        return {"ranks": seen, "beside": beside.proof, "said": said[:100]}


def run(arguments):
    found, samples = [], {}
    for name, load, varying in CASES:
        print(name, file=sys.stderr, flush=True)
        got = measure(arguments.rounds, load, varying)
        samples[name] = got
        found += judged(name, arguments.rounds, got)
    return found, samples


def judged(name: str, rounds: int, got: dict) -> list:
    seen = got["ranks"]
    wrong = sum(one["wrong"] for one in seen)
    assert wrong == 0, f"{name}: {wrong} wrong elements"
    against = sum(one["strikes"] + one["bans"] + one["blacklisted"] for one in seen)
    against += sum(len(one["events"]) for one in seen)
    incomplete = sum(rounds - one["outcomes"].get("complete", 0) for one in seen)
    longest = max(one["longest"] for one in seen) * 1e3
    median = max(one["median"] for one in seen) * 1e3
    words = f"{rounds} rounds, median {median:.2g} ms, longest {longest:.0f} ms"
    note = ", ".join(filter(None, (words, got["beside"])))
    return [
        Figure("false-strikes", f"{name}: strikes, accusations", against, 0, note=note),
        Figure("false-strikes", f"{name}: incomplete rounds", incomplete, 0),
    ]
