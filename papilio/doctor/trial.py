"""Does it work here? Two ranks on this host, a pair of processes per lane, within a limit."""

import json
import os
import statistics
import subprocess
import sys
import time

_LIMIT = 60.0  # seconds for one lane: importing torch is most of it
_SIZES = {"4 KiB": 1 << 10, "4 MiB": 1 << 20}  # float32 elements
_CALLS = 21


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def rank_main() -> None:
    """One rank of the trial; prints what it saw as JSON."""
    import torch
    import torch.distributed as dist

    import papilio

    before = _descriptors()
    dist.init_process_group("papilio")
    rank, n = dist.get_rank(), dist.get_world_size()
    times, wrong = {}, 0
    for name, numel in _SIZES.items():
        samples = []
        for call in range(_CALLS):
            tensor = torch.full((numel,), float(rank + call))
            dist.barrier()
            begin = time.monotonic()
            dist.all_reduce(tensor)
            samples.append(time.monotonic() - begin)
            wrong += int((tensor != sum(r + call for r in range(n))).sum())
        times[name] = statistics.median(samples)
    peer = papilio.peers()[1 - rank]
    answer = {
        "lane": peer.lane,
        "address": peer.address,
        "rtt": peer.rtt,
        "times": times,
        "wrong": wrong,
        "descriptors": _descriptors() - before,
        "complete": papilio.stats()["rounds"]["complete"],
    }
    dist.barrier()  # nobody leaves before both have looked
    print(json.dumps(answer), flush=True)
    dist.destroy_process_group()


def run(lane: str) -> tuple[dict, str]:
    """What the worse of two ranks saw on this lane, and what went wrong ("" if nothing did)."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": "2",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "PAPILIO_TRANSPORT": lane,
    }
    command = [sys.executable, "-c", "from papilio.doctor.trial import rank_main; rank_main()"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ranks = [
        subprocess.Popen(command, env=environment | {"RANK": str(r), "LOCAL_RANK": str(r)}, **pipes)
        for r in range(2)
    ]
    end = time.monotonic() + _LIMIT
    answers, errors = [], []
    for number, rank in enumerate(ranks):
        try:
            out, err = rank.communicate(timeout=max(end - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            errors.append(f"rank {number} did not end within {_LIMIT:.0f} s")
            continue
        lines = err.strip().splitlines()
        if rank.returncode != 0:
            errors.append(f"rank {number}: {lines[-1] if lines else f'status {rank.returncode}'}")
        else:
            answers.append(json.loads(out.splitlines()[-1]))
    for rank in ranks:
        rank.kill()
        rank.wait()
    if errors:
        return {}, "; ".join(errors)
    worst = max(answers, key=lambda answer: sum(answer["times"].values()))
    wrong = sum(answer["wrong"] for answer in answers)
    return worst, f"{wrong} wrong elements" if wrong else ""
