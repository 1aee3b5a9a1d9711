"""What ``papilio.peers()`` says of a rank beside what was done to it: a known delay of its link, a
known rate of its link, a known time that it computes longer."""

import socket
import statistics
import time

import network
import test_peers
from cases import Plan
from cluster import Cluster
from figures import Figure
from job import Job

NEAR = 15  # per cent of the truth
RANKS, VICTIM = 4, 2
DELAY = 0.02  # seconds, one way
RATE = 200  # Mbit/s
# Of a frame of 1514 bytes, which the link's limit counts, TCP carries 1448.
PAYLOAD = 1448 / 1514
EXTRA = 0.2  # seconds of computing
_NUMEL = 1 << 22  # 16 MiB: the link is busy for long


def _steps(seconds: float, numel: int, pause: float) -> str:
    """As many all-reduces as rank 0 makes in that time, then what is said of the others."""
    return f"""
import builtins
go_on = torch.ones(1, dtype=torch.int32)
begin = time.monotonic()
tensor = torch.ones({numel})
while go_on.item():
    threading.Event().wait({pause})
    dist.all_reduce(tensor)
    go_on.fill_(int(time.monotonic() - begin < {seconds}))
    dist.broadcast(go_on, 0)
result = {{p.rank: [p.rtt, p.goodput, p.lag] for p in papilio.peers() if p.state != "self"}}
"""


def on_link(ranks: int, spoil, steps: str, check) -> list:
    """What each rank says of the others, by rank; ``spoil`` and ``check`` take the network."""
    hosts = network.Network(ranks)
    try:
        spoil(hosts)
        with Job(ranks, Plan(0, (), ()), {}, network=hosts) as job:
            for rank in job.ranks:
                rank.send("collective", source=steps)
            said = []
            for rank in job.ranks:
                answer = rank.receive(timeout=120)
                assert answer["ok"], answer.get("trace", answer)
                said.append({int(r): values for r, values in answer["result"].items()})
            check(hosts, job)
            return said
    finally:
        hosts.close()


def off(values: list, truth: float) -> float:
    """Per cent that the worst one is away from the truth."""
    return max(100 * abs(value / truth - 1) for value in values)


def _words(values: list, truth: str, scale: float) -> str:
    said = ", ".join(f"{value * scale:.3g}" for value in values)
    return f"{said}; true: {truth}"


def connect_time(address: str) -> float:
    """Seconds that one exchange of packets takes, by the kernels alone."""
    host, port = address.rsplit(":", 1)
    took = []
    for _ in range(5):
        begin = time.monotonic()
        with socket.create_connection((host, int(port)), timeout=5):
            took.append(time.monotonic() - begin)
    return statistics.median(took)


def delay():
    seen = {}

    def check(hosts, job):
        peers = job.ask(0, "aftermath()")["peers"]
        seen["connect"] = hosts.inside(lambda: connect_time(peers[VICTIM]["address"]))
        assert 2 * DELAY <= seen["connect"] < 2.5 * DELAY, f"the link takes {seen['connect']} s"

    said = on_link(RANKS, lambda hosts: hosts.delay(VICTIM, DELAY), _steps(8, 1000, 0.02), check)
    values = [said[rank][VICTIM][0] for rank in range(RANKS) if rank != VICTIM]
    truth = f"{2 * DELAY * 1e3:.0f} ms (a connection takes {seen['connect'] * 1e3:.3g} ms)"
    return Figure("scores", "rtt behind a link with delay, off by", off(values, 2 * DELAY), NEAR,
                  "%", _words(values, truth, 1e3)), said  # fmt: skip


def rate():
    def spoil(hosts):
        for host in range(2):
            hosts.limit(host, f"{RATE}mbit", burst="64kb")

    def check(hosts, _):
        assert hosts.limited(0) > 0 and hosts.limited(1) > 0, "the limit was never reached"

    said = on_link(2, spoil, _steps(8, _NUMEL, 0.0), check)
    values = [said[0][1][1], said[1][0][1]]
    true = RATE / 8 * 1e6 * PAYLOAD
    truth = f"{true / 1e6:.3g} MB/s of payload in {RATE} Mbit/s"
    return Figure("scores", "goodput over a link of known rate, off by", off(values, true), NEAR,
                  "%", _words(values, truth, 1e-6)), said  # fmt: skip


def lag():
    source = test_peers.STEPS.format(steps=16, compute=0.02, extra=EXTRA, numel=1 << 20)
    with Cluster(RANKS) as ranks:
        said = ranks.run(source)
    values = [lags[str(VICTIM)] for lags in said]
    truth = f"{EXTRA * 1e3:.0f} ms"
    return Figure("scores", "lag of a rank that computes longer, off by", off(values, EXTRA), NEAR,
                  "%", _words(values, truth, 1e3)), said  # fmt: skip


def run(arguments):
    found, samples = [], {}
    why = network.unavailable()
    for measure in (lag, delay, rate):
        if why and measure is not lag:
            found.append(Figure("scores", f"{measure.__name__} of a link", None, NEAR, note=why))
            continue
        figure, samples[measure.__name__] = measure()
        found.append(figure)
    return found, samples
