"""The rank's side: all-reduces that begin on command, judged afterwards by the oracle."""

import json
import os
import time

import oracle
import torch.distributed as dist

import papilio

READY: dict = {}  # salt -> tensor that is to be reduced
_WARM = 1000  # salt
DONE: dict = {}  # salt -> (tensor, report, begin, end)


def _me() -> int:
    return int(os.environ["RANK"])


def prepare(numel: int, salts: list) -> None:
    """Makes inputs, so that calls begin as soon as they are ordered."""
    for salt in salts:
        READY[salt] = oracle.tensor(_me(), salt, numel)


def one(salt: int, announce: bool = False) -> dict:
    """One round; only its times, because who judges now is late in the next round."""
    tensor = READY.pop(salt)
    if announce:
        print(json.dumps({"announce": True}), flush=True)
    begin = time.monotonic()
    work = dist.all_reduce(tensor, async_op=True)
    work.wait()
    end = time.monotonic()
    if announce:
        print(json.dumps({"returned": True}), flush=True)
    DONE[salt] = (tensor, papilio.report(work), begin, end)
    return {"begin": begin, "end": end}


def judge(salt: int) -> dict:
    """As worker.allreduce answers."""
    tensor, report, begin, end = DONE.pop(salt)
    n = int(os.environ["WORLD_SIZE"])
    wrong = oracle.count_wrong(tensor, report, n, _me(), salt)
    times = {"begin": begin, "end": end}
    return {"ok": True, "wrong": wrong, "report": report.asdict()} | times


def forget() -> None:
    """What was not judged."""
    DONE.clear()


def warm(numel: int, count: int) -> list:
    """Seconds of that many rounds in a row, all of them complete."""
    took = []
    given = oracle.tensor(_me(), _WARM, numel)
    tensor = given.clone()
    for _ in range(count):
        tensor.copy_(given)
        READY[_WARM] = tensor
        times = one(_WARM)
        took.append(times["end"] - times["begin"])
        assert DONE[_WARM][1].outcome == "complete", str(DONE[_WARM][1])
    answer = judge(_WARM)
    assert not answer["wrong"], answer
    return took
