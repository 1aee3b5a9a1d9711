"""Tensors on a device averaged where they are (``host_backend="papilio"``), all ranks on one host.

The device is that of tests/process_group/fake_device, or a GPU that all ranks share
(DEVICE_UNDER_TEST=cuda). Every round is judged by the oracle: whatever its report says, the tensor
must hold.
"""

import os
import signal
import time

import pytest
from cluster import Cluster

LIMIT = 60
DEVICE = os.environ.get("DEVICE_UNDER_TEST", "fake")

INIT = """
import device_under_test as dev
dist.init_process_group(
    f"cpu:papilio,{dev.NAME}:papilio",
    timeout=timedelta(seconds=30),
    pg_options=papilio.Options(hierarchy="host", host_backend="papilio", %s),
)
"""

NAMES = """
import device_under_test as dev
import oracle, time
def reduced(salt, numel=1 << 17, op="sum", dtype="float32", spoil=False, weights=None):
    x = oracle.tensor(rank, salt, numel, dtype).to(dev.NAME)
    if spoil: x[5] = float("nan")
    begin = time.monotonic()
    how = dist.ReduceOp.AVG if op == "avg" else dist.ReduceOp.SUM
    work = dist.all_reduce(x, how, async_op=True)
    work.wait()  # the stream waits
    out = x.cpu()
    seconds = time.monotonic() - begin
    if (error := work.exception()) is not None: raise error
    report = papilio.report(work)
    return {
        "wrong": oracle.count_wrong(out, report, n, rank, salt, op, dtype, weights),
        "seconds": seconds, "report": report.asdict(), "crc": hash(out.double().numpy().tobytes()),
    }
"""


class Lanes(Cluster):
    def __init__(self, n, options="patience=2.0"):
        super().__init__(n, init=False)
        self._begin = INIT % options

    def __enter__(self):
        self.run(self._begin)
        return self

    def reduced(self, call: str, ranks=None) -> list:
        answers = self.run(NAMES + f"result = reduced({call})", ranks=ranks, timeout=LIMIT)
        for answer in answers:
            assert answer["wrong"] == 0, answer
        return answers

    def require_order(self, ranks=None):
        for races in self.run("import device_under_test as dev; result = dev.races()", ranks):
            assert races == []


def contributors(report) -> set:
    return {tuple(chunk["contributors"]) for chunk in report["chunks"]}


def require_whole(answers):
    for answer in answers:
        assert answer["report"]["outcome"] == "complete", answer["report"]
        assert contributors(answer["report"]) == {tuple(range(len(answers)))}
    assert len({answer["crc"] for answer in answers}) == 1  # the same bits


# Of float32: one whole average, parts, parts of unequal size, several megabytes.
SIZES = [20_000, 1 << 17, 100_003, 1_500_001]


@pytest.mark.parametrize("n", [2, 4, 5])
def test_averages_are_exact(n):
    with Lanes(n) as ranks:
        salt = 0
        for numel in SIZES:
            for op in ("sum", "avg"):
                require_whole(ranks.reduced(f"{(salt := salt + 1)}, {numel}, op='{op}'"))
        for dtype in ("float64", "bfloat16", "float16"):
            require_whole(ranks.reduced(f"{(salt := salt + 1)}, 200_001, 'avg', '{dtype}'"))
        require_whole(ranks.reduced(f"{(salt := salt + 1)}, 1000"))  # goes through the host
        ranks.require_order()


def test_many_rounds_in_flight_use_the_same_memory_again():
    text = """
wrong = 0
for turn in range(3):
    xs = [oracle.tensor(rank, salt, 1 << 20).to(dev.NAME) for salt in range(24)]
    works = [dist.all_reduce(x, async_op=True) for x in xs]
    for salt, (x, work) in enumerate(zip(xs, works)):
        work.wait()
        out = x.cpu()
        wrong += oracle.count_wrong(out, papilio.report(work), n, rank, salt)
        assert papilio.report(work).outcome == "complete", papilio.report(work)
result = wrong
"""
    with Lanes(3) as ranks:
        assert ranks.run(NAMES + text, timeout=LIMIT) == [0, 0, 0]
        ranks.require_order()


def test_weights_count():
    """Ranks 0 to 3 weigh 1, 3, 1 and 1."""
    with Lanes(4, "weight=3.0 if rank == 1 else 1.0") as ranks:
        for call in ("1, op='avg'", "2", "3, 20_000, 'avg'"):
            ranks.reduced(f"{call}, weights=[1, 3, 1, 1]")


def test_a_rank_with_a_nan_is_left_out():
    with Lanes(4) as ranks:
        require_whole(ranks.reduced("1"))
        for answer in ranks.reduced("2, spoil=rank == 1"):
            assert contributors(answer["report"]) == {(0, 2, 3)}, answer["report"]
            assert answer["report"]["blamed"] == {"1": "nonfinite"}
        require_whole(ranks.reduced("3"))


OTHER = {
    "fingerprint": ("fingerprint='another' if rank == 1 else 'one'", "numel=1 << 17"),
    "numel": ("patience=2.0", "numel=(1 << 17) + (rank == 1)"),
    "dtype": ("patience=2.0", "dtype='bfloat16' if rank == 1 else 'float32'"),
}


@pytest.mark.parametrize("what", OTHER)
def test_another_model_never_counts(what):
    options, call = OTHER[what]
    text = f"""
try:
    result = [reduced(salt, {call}) for salt in range(3)]
except papilio.SchemaMismatch as error:
    result = str(error)
"""
    with Lanes(4, options) as ranks:
        answers = ranks.run(NAMES + text, timeout=LIMIT)
        assert isinstance(answers[1], str), answers[1]  # SchemaMismatch
        for rank in (0, 2, 3):
            for answer in answers[rank]:
                assert answer["wrong"] == 0, answer
                assert contributors(answer["report"]) == {(0, 2, 3)}, answer["report"]
        assert answers[0][0]["report"]["blamed"] == {"1": "schema"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_does_not_come_costs_one_deadline(how):
    with Lanes(4) as ranks:
        require_whole(ranks.reduced("1"))
        ranks[1].signal(how)
        begin = time.monotonic()
        for salt in range(2, 12):
            answers = ranks.reduced(f"{salt}, 1 << 20", ranks=[0, 2, 3])
            for answer in answers:
                assert set(map(int, answer["report"]["blamed"])) <= {1}, answer["report"]
        assert time.monotonic() - begin < 10.0
        for answer in answers:
            assert contributors(answer["report"]) == {(0, 2, 3)}
            assert answer["seconds"] < 1.0
        ranks.require_order([0, 2, 3])


ON_THE_FAKE_ONE = [signal.SIGKILL, signal.SIGSTOP] if DEVICE == "fake" else []


@pytest.mark.parametrize("how", ON_THE_FAKE_ONE)
def test_a_rank_that_ends_before_its_part_is_made_still_counts(how):
    """Its elements are where the others can read them: they make its part, and lose nothing."""
    with Lanes(4) as ranks:
        require_whole(ranks.reduced("1"))
        ranks[1].run(f"import device_under_test as dev; dev.signal_at_average(1, {int(how)})")
        ranks[1].send("collective", source=NAMES + "result = reduced(2)")
        answers = ranks.reduced("2", ranks=[0, 2, 3])
        for answer in answers:
            assert contributors(answer["report"]) == {(0, 1, 2, 3)}, answer["report"]
            assert answer["seconds"] < 0.5, answer["seconds"]
        assert len({answer["crc"] for answer in answers}) == 1
        for salt in range(3, 12):
            answers = ranks.reduced(f"{salt}, 1 << 20", ranks=[0, 2, 3])
        for answer in answers:
            assert contributors(answer["report"]) == {(0, 2, 3)}
        if how == signal.SIGSTOP:
            # It goes on: by now the others have used their memory again.
            ranks[1].signal(signal.SIGCONT)
            answer = ranks[1].receive()
            assert answer["ok"], answer
            assert answer["result"]["wrong"] == 0, answer
            assert answer["result"]["report"]["outcome"] == "local"
            assert contributors(answer["result"]["report"]) == {(1,)}
            (said,) = [line for line in ranks[1].errors if "the own gradient is used" in line]
            assert "stopped for so long" in said
            (kept,) = ranks[1].run("result = [r.outcome for r in papilio.reports(last=1)]")
            assert kept == "local"
        ranks.require_order([0, 2, 3])


def test_without_an_average_the_own_elements_or_zeros_stand():
    """Rank 1 is banned by the others: it hears nothing, and its report says so."""
    for fallback, scale in (("local", 4.0), ("zero", 0.0)):
        with Lanes(4, f"patience=1.0, fallback='{fallback}'") as ranks:
            require_whole(ranks.reduced("1"))
            text = """
x = torch.full((1 << 17,), float(rank + 1)).to(dev.NAME)
work = dist.all_reduce(x, async_op=True)
work.wait()
result = [x.cpu().unique().tolist(), papilio.report(work).asdict()]
"""
            for rank in (0, 2, 3):
                ranks[rank].signal(signal.SIGSTOP)
            values, report = ranks[1].run(NAMES + text, timeout=LIMIT)
            for rank in (0, 2, 3):
                ranks[rank].signal(signal.SIGCONT)
            assert report["outcome"] == "local"
            assert contributors(report) == {(1,)}
            assert values == [2.0 * scale]


def test_an_error_leaves_the_tensor_alone():
    text = """
x = torch.full((1 << 17,), float(rank + 1)).to(dev.NAME)
work = dist.all_reduce(x, async_op=True)
try:
    work.wait(timeout=timedelta(seconds=20))
    result = "no error"
except papilio.QuorumLost as error:
    result = [str(error), x.cpu().unique().tolist()]
"""
    with Lanes(2, "patience=1.0, min_peers=2") as ranks:
        require_whole(ranks.reduced("1"))
        ranks[1].kill()
        said, values = ranks[0].run(NAMES + text, timeout=LIMIT)
        assert values == [1.0]


def test_abort_lets_everything_go():
    text = """
x = torch.ones(1 << 17).to(dev.NAME)
work = dist.all_reduce(x, async_op=True)
work.wait()
threading.Timer(0.2, lambda: dist.group.WORLD.abort()).start()
begin = time.monotonic()
dev.synchronize()
result = time.monotonic() - begin
"""
    with Lanes(2, "patience=30.0") as ranks:
        require_whole(ranks.reduced("1"))
        ranks[1].signal(signal.SIGSTOP)
        assert ranks[0].run(NAMES + text, timeout=LIMIT) < 5.0
        ranks[1].signal(signal.SIGCONT)
