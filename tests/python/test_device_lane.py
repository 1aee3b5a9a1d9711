"""Tensors on a device averaged where they are (``host_backend="papilio"``), all ranks on one host.

The device is that of tests/process_group/fake_device, or a GPU that all ranks share
(DEVICE_UNDER_TEST=cuda). Every round is judged by the oracle: whatever its report says, the tensor
must hold.
"""

import os
import signal
import time

import pytest
from cluster import Cluster, wait_until
from device_ranks import LIMIT, NAMES, OnDevice, contributors, require_whole

DEVICE = os.environ.get("DEVICE_UNDER_TEST", "fake")

INIT = """
import device_under_test as dev
dist.init_process_group(
    f"cpu:papilio,{dev.NAME}:papilio",
    timeout=timedelta(seconds=30),
    pg_options=papilio.Options(hierarchy="host", host_backend="papilio", %s),
)
"""


class Lanes(OnDevice, Cluster):
    def __init__(self, n, options="patience=2.0"):
        super().__init__(n, init=False)
        self._begin = INIT % options


# Of float32: one whole average, parts, parts of unequal size, several megabytes.
SIZES = [20_000, 1 << 17, 100_003, 1_500_001]


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_averages_are_exact(n):
    with Lanes(n) as ranks:
        salt = 0
        for numel in SIZES:
            for op in ("sum", "avg"):
                require_whole(ranks.reduced(f"{(salt := salt + 1)}, {numel}, op='{op}'"))
        for dtype in ("float64", "bfloat16", "float16"):
            require_whole(ranks.reduced(f"{(salt := salt + 1)}, 200_001, 'avg', '{dtype}'"))
        before = ranks.averages()
        assert min(before) > 0
        require_whole(ranks.reduced(f"{(salt := salt + 1)}, 1000"))  # goes through the host
        assert ranks.averages() == before
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


def state(rank) -> str:
    with open(f"/proc/{rank.pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


ON_THE_FAKE_ONE = [signal.SIGKILL, signal.SIGSTOP] if DEVICE == "fake" else []


@pytest.mark.parametrize("how", ON_THE_FAKE_ONE)
def test_a_rank_that_ends_before_its_part_is_made_still_counts(how):
    """Its elements are where the others can read them: they make its part, and lose nothing."""
    with Lanes(4) as ranks:
        require_whole(ranks.reduced("1"))
        ranks[1].run(f"import device_under_test as dev; dev.signal_at_average(1, {int(how)})")
        ranks[1].send("collective", source=NAMES + "result = reduced(2)")
        answers = ranks.reduced("2", ranks=[0, 2, 3])
        if how == signal.SIGKILL:
            assert ranks[1].wait() == -signal.SIGKILL  # the fault fired, by its own hand
        else:
            assert state(ranks[1]) == "T"
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
    """The others are stopped: rank 1 hears nothing, and its report says so."""
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


# A gradient that is the same on all ranks, so that sums are exact, and large enough for the lane.
TRAIN = """
store = dist.distributed_c10d._get_default_store()._underlying_non_prefix_store
model = torch.nn.Linear(20_000, 1, bias=False).to(dev.NAME)
with torch.no_grad(): model.weight.zero_()
optimizer = torch.optim.SGD(model.parameters(), lr=1.0, foreach=False)
job = papilio.attach(model, optimizer)
while not (store.check(["stop"]) and job.step >= int(store.get("stop"))):
    gradient = torch.full((20_000,), float(job.step % 7 + 6)).to(dev.NAME)
    dist.all_reduce(gradient, dist.ReduceOp.AVG)
    model.weight.grad = gradient.view(1, -1)
    optimizer.step()
    store.set(f"at/{rank}", f"{job.step} {int(job.joined)}")
result = [job.step, model.weight.detach().cpu().unique().tolist()]
"""


def test_killed_ranks_come_back():
    """Rank 2, then rank 0: every view has lanes of its own."""
    with Lanes(3) as ranks:

        def at(rank):
            key = f"at/{rank}"
            known = ranks.store.check([key])
            return [int(x) for x in ranks.store.get(key).split()] if known else [0, 0]

        def kill_and_restart(victim):
            other = (victim + 1) % 3
            before = at(other)[0]
            wait_until(lambda: at(other)[0] >= before + 5, what="five steps")
            ranks[victim].kill()
            ranks.store.delete_key(f"at/{victim}")
            ranks.begin_again(victim)
            ranks[victim].send("collective", source=NAMES + TRAIN)
            wait_until(lambda: at(victim)[1], 60, "it joined")

        for rank in ranks:
            rank.send("collective", source=NAMES + TRAIN)
        kill_and_restart(2)
        kill_and_restart(0)
        last = max(at(rank)[0] for rank in range(3)) + 20
        ranks.store.set("stop", str(last))
        answers = [rank.receive() for rank in ranks]
        for answer in answers:
            assert answer["ok"], answer["trace"]
        wanted = -float(sum(step % 7 + 6 for step in range(last)))
        assert [answer["result"] for answer in answers] == [[last, [wanted]]] * 3
        ranks.require_order()


def test_the_first_round_may_be_the_last_of_a_rank():
    """Killed before the others can have found its memory: whatever they say, it is explained."""
    with Lanes(4) as ranks:
        for rank in ranks:
            rank.send("collective", source=NAMES + "result = reduced(1, 1 << 20)")
        ranks[3].kill()
        assert ranks[3].wait() == -signal.SIGKILL
        for rank in ranks.ranks[:3]:
            answer = rank.receive()
            assert answer["ok"] and answer["result"]["wrong"] == 0, answer
        for answer in ranks.reduced("2", ranks=[0, 1, 2]):
            assert contributors(answer["report"]) == {(0, 1, 2)}


def test_ddp_trains_as_on_one_device():
    text = """
torch.manual_seed(0)
model = torch.nn.Linear(300, 200).to(dev.NAME)
ddp = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(ddp.parameters(), lr=2.0 ** -4, foreach=False)
for step in range(4):
    data = oracle.tensor(rank, step, 8 * 300).view(8, 300).to(dev.NAME) / 64
    ddp(data).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
kinds = {r.outcome for r in papilio.reports(last=4)}
result = [hash(model.weight.detach().cpu().numpy().tobytes()), sorted(kinds)]
"""
    with Lanes(3) as ranks:
        answers = ranks.run(NAMES + text, timeout=LIMIT)
        assert len({crc for crc, _ in answers}) == 1
        assert all(kinds == ["complete"] for _, kinds in answers)
        ranks.require_order()
