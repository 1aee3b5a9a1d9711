"""All-reduces of tensors on a device, judged by the oracle: what tests of devices share."""

from cluster import Rank

LIMIT = 60  # seconds for one call

# `reduced` on a rank: one all-reduce, and how many elements differ from what its report says.
NAMES = """
import device_under_test as dev
import oracle, time
def reduced(
    salt, numel=1 << 17, op="sum", dtype="float32", spoil=False, busy=0.0, weights=None
):
    x = oracle.tensor(rank, salt, numel, dtype).to(dev.NAME)
    if spoil: x[5] = float("nan")
    begin = time.monotonic()
    if busy: threading.Timer(busy, dev.hold().open).start()
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


class OnDevice:
    """For a Cluster of ranks that begin with the text ``_begin``."""

    def __enter__(self):
        self.run(self._begin)
        return self

    def begin_again(self, rank: int) -> None:
        """A new process in the place of one that has ended, which comes back into the group."""
        self.ranks[rank].end()
        self.ranks[rank] = Rank(rank, self._environments[rank] | {"PAPILIO_REJOIN": "1"})
        self.ranks[rank].run(self._begin)

    def reduced(self, call: str, ranks=None) -> list:
        answers = self.run(NAMES + f"result = reduced({call})", ranks=ranks, timeout=LIMIT)
        for answer in answers:
            assert answer["wrong"] == 0, answer
        return answers

    def averages(self) -> list:
        """By rank, what the device lane has launched."""
        return self.run("import device_under_test as dev; result = dev.averages()")

    def require_order(self, ranks=None):
        for races in self.run("import device_under_test as dev; result = dev.races()", ranks):
            assert races == []


def contributors(report) -> set:
    return {tuple(chunk["contributors"]) for chunk in report["chunks"]}


def require_whole(answers):
    """All of them have the average of all of them, in the same bits."""
    for answer in answers:
        assert answer["report"]["outcome"] == "complete", answer["report"]
        assert contributors(answer["report"]) == {tuple(range(len(answers)))}
    assert len({answer["crc"] for answer in answers}) == 1
