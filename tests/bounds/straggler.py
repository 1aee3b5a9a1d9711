"""The steps of three ranks while a fourth one computes 0.5 s longer in each, or sits behind a link
of 200 Mbit/s among links of 1 Gbit/s: how even they are once it is out, beside Gloo's.

Patience is below the lag, or it would be waited for: with default options nobody is out who is less
than a second behind.
"""

import contextlib
import math
import os

import midround
import network
import numpy as np
from cases import Plan
from cluster import Cluster
from figures import Figure
from job import Job

from papilio.bench.stats import nearest_rank

RANKS, SLOW = 4, 3
OTHERS = [rank for rank in range(RANKS) if rank != SLOW]
PATIENCE = 0.2
EVEN = 1.3  # p99 / p50
EXTRA = 0.5
COMPUTE = 0.03  # seconds of each step
STEPS, LINK_STEPS = 400, 150
FEWEST = 50  # of which there are percentiles
GLOO_STEPS = 60  # it waits for the slow one in each
NUMEL, LINK_NUMEL = 1 << 18, 1 << 22  # 1 MiB; 16 MiB, for which the slow link takes long
FAST_LINK, SLOW_LINK = "1gbit", "200mbit"


def measure(ranks, backend: str, count: int, numel: int, extra: float, limit: float) -> list:
    """The steps of the others, in each the longest one: (seconds, who is missing for somebody,
    does the slow rank count in any element of anybody?)."""
    for rank in ranks:
        compute = COMPUTE + (extra if rank.rank == SLOW else 0)
        source = midround.call(f"steps({backend!r}, {count}, {numel}, {compute})", "stepping")
        rank.send("collective", source=source)
    found = []
    for rank in OTHERS:
        answer = ranks[rank].receive(timeout=limit)
        assert answer["ok"], answer.get("trace", answer)
        found.append(answer["result"])
    out = []
    for parts in zip(*found, strict=True):
        blamed = sorted({who for _, whom, _ in parts for who in whom})
        counts = any(SLOW in there for _, _, there in parts)
        out.append((max(seconds for seconds, _, _ in parts), blamed, counts))
    return out


@contextlib.contextmanager
def computing(backend: str):
    """A group on this host; the slow rank is slow by itself."""
    with Cluster(RANKS, init=False) as ranks:
        options = {"patience": PATIENCE}
        for answer in ranks.all("init", timeout=90, options=options, backend=backend):
            assert answer["ok"], answer
        yield ranks


@contextlib.contextmanager
def linked(backend: str):
    """A group whose ranks are on hosts of their own; one link carries less."""
    hosts = network.Network(RANKS)
    try:
        for host in range(RANKS):
            hosts.limit(host, SLOW_LINK if host == SLOW else FAST_LINK, burst="256kb")
        os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
        options = {"patience": PATIENCE}
        with Job(RANKS, Plan(0, (), ()), options, network=hosts, backend=backend) as job:
            yield job.ranks
            assert hosts.limited(SLOW) > 0, "the limit was never reached"
    finally:
        os.environ.pop("GLOO_SOCKET_IFNAME", None)
        hosts.close()


def even(times: list) -> tuple:
    """p99 / p50, and p50; no number where there are too few."""
    if len(times) < FEWEST:
        return math.nan, math.nan
    ordered = np.sort(times)
    middle = nearest_rank(ordered, 50)
    return nearest_rank(ordered, 99) / middle, middle


def once_out(steps: list) -> tuple:
    """The steps after the first in which it did not count at all, and how many these were."""
    first = next((k for k, (_, _, counts) in enumerate(steps) if not counts), None)
    if first is None:
        return [], len(steps)
    return [seconds for seconds, *_ in steps[first + 1 :]], first + 1


def compare(name: str, group, count: int, numel: int, extra: float) -> tuple:
    with group("papilio") as ranks:
        mine = measure(ranks, "papilio", count, numel, extra, 300)
    with group("gloo") as ranks:
        gloo = [seconds for seconds, *_ in measure(ranks, "gloo", GLOO_STEPS, numel, extra, 300)]
    left, until = once_out(mine)
    ratio, middle = even(left)
    missing = sum(SLOW in gone for _, gone, _ in mine[until:]) / max(1, len(left))
    healthy = sum(bool(set(gone) - {SLOW}) for _, gone, _ in mine)
    before = sum(seconds for seconds, *_ in mine[:until])
    gloo_ratio, gloo_middle = even(gloo)
    words = f"p50 {middle * 1e3:.3g} ms; out after {until} steps ({before:.3g} s), "
    words += f"then missing in {missing:.0%}"
    words += f", longest {max(left, default=math.nan) * 1e3:.0f} ms"
    return [
        Figure("straggler", f"{name}: p99 / p50 of the others' steps", ratio, EVEN, "x", words),
        Figure("straggler", f"{name}: steps in which another rank is missing", healthy, 0, "",
               f"of {count}"),
        Figure("straggler", f"{name}: p99 / p50 with Gloo", gloo_ratio, None, "x",
               f"p50 {gloo_middle * 1e3:.0f} ms: all wait in each step"),
    ], {"papilio": mine, "gloo": gloo}  # fmt: skip


def run(arguments):
    with computing("papilio") as ranks:
        calm = [seconds for seconds, *_ in measure(ranks, "papilio", STEPS, NUMEL, 0.0, 300)]
    ratio, middle = even(calm)
    found = [Figure("straggler", "without a straggler: p99 / p50 of steps", ratio, None, "x",
                    f"p50 {middle * 1e3:.3g} ms")]  # fmt: skip
    name = f"+{EXTRA * 1e3:.0f} ms compute"
    more, samples = compare(name, computing, STEPS, NUMEL, EXTRA)
    why = network.unavailable()
    link = f"{SLOW_LINK[:-4]} Mbit/s link"
    if why:
        return [*found, *more, Figure("straggler", link, None, EVEN, note=why)], samples
    links, link_samples = compare(link, linked, LINK_STEPS, LINK_NUMEL, 0.0)
    return [*found, *more, *links], {"calm": calm, name: samples, link: link_samples}
