"""A rank under test: executes commands from stdin, one JSON object per line, answers likewise."""

import contextlib
import ctypes
import datetime
import json
import os
import sys
import threading
import time
import traceback
import zlib

import numpy as np
import oracle
import torch
import torch.distributed as dist

import papilio

EVENTS: list = []
LEAVING: list = []  # not empty: the script has ended, the interpreter's exit is timed


def error_of(error: BaseException) -> dict:
    out = {"error": type(error).__name__, "text": str(error)}
    for name in ("ranks", "reason", "mine", "theirs", "seq"):
        if hasattr(error, name):
            value = getattr(error, name)
            out[name] = list(value) if isinstance(value, tuple) else value
    return out


def init(options=None, backend="papilio", timeout=60.0):
    start = time.monotonic()
    options = options or {}
    dist.init_process_group(
        backend,
        timeout=datetime.timedelta(seconds=timeout),
        pg_options=papilio.Options(**options) if backend == "papilio" else None,
    )
    papilio.on_event(lambda event: EVENTS.append(vars(event)))
    return {"seconds": time.monotonic() - start}


def allreduce(numel, salt, op="sum", dtype="float32", check=True, announce=False, timeout=None):
    """One all-reduce of the oracle's input, compared with the oracle of its own report."""
    rank, n = dist.get_rank(), dist.get_world_size()
    tensor = oracle.tensor(rank, salt, numel, dtype)
    if announce:  # tells the parent that the call is about to begin, and when it has returned
        print(json.dumps({"announce": True}), flush=True)
    start = time.monotonic()
    work = dist.all_reduce(tensor, op=getattr(dist.ReduceOp, op.upper()), async_op=True)
    if timeout is None:
        work.wait()
    else:
        work.wait(datetime.timedelta(seconds=timeout))
    end = time.monotonic()
    if announce:
        print(json.dumps({"returned": True}), flush=True)
    report = papilio.report(work)
    out = {
        "begin": start,
        "end": end,
        "seconds": end - start,
        "report": report.asdict(),
        "crc": zlib.crc32(tensor.view(torch.uint8).numpy()),
    }
    if check:
        out["wrong"] = oracle.count_wrong(tensor, report, n, rank, salt, op, dtype)
    return out


def many(sizes, salt, op="sum"):
    """A series of all-reduces; answers with summary and a digest of all result bytes."""
    import hashlib

    digest = hashlib.sha256()
    outcomes: dict = {}
    longest = 0.0
    rank, n = dist.get_rank(), dist.get_world_size()
    wrong = 0
    for index, numel in enumerate(sizes):
        tensor = oracle.tensor(rank, salt + index, numel)
        start = time.monotonic()
        dist.all_reduce(tensor, op=getattr(dist.ReduceOp, op.upper()))
        longest = max(longest, time.monotonic() - start)
        report = papilio.last_report()
        outcomes[report.outcome] = outcomes.get(report.outcome, 0) + 1
        digest.update(tensor.numpy().tobytes())
        if index % 16 == 0:
            wrong += oracle.count_wrong(tensor, report, n, rank, salt + index, op, "float32")
    return {"outcomes": outcomes, "digest": digest.hexdigest(), "longest": longest, "wrong": wrong}


def collective(source, ranks=None):
    """Runs Python text with torch, dist, papilio, rank and n in reach; answers with ``result``."""
    scope = {
        "torch": torch,
        "dist": dist,
        "papilio": papilio,
        "np": np,
        "time": time,
        "threading": threading,
        "oracle": oracle,
        "timedelta": datetime.timedelta,
        "os": os,
        "rank": dist.get_rank() if dist.is_initialized() else int(os.environ["RANK"]),
        "n": int(os.environ["WORLD_SIZE"]),
        "result": None,
    }
    start = time.monotonic()
    exec(source, scope)  # noqa: S102 - the test wrote it
    end = time.monotonic()
    return {"result": scope["result"], "seconds": end - start, "end": end}


def events():
    return {"events": list(EVENTS)}


def footprint(restart_peak=False):
    """Threads, descriptors, shared memory and resident memory (bytes) of this process."""
    if restart_peak:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # VmHWM counts from here
    ctypes.CDLL(None).malloc_trim(0)  # what the test's own tensors left in the allocator
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    threads = {}
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/comm") as file:
            threads[task] = file.read().strip()
    descriptors = {}
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            descriptors[descriptor] = os.readlink(f"/proc/self/fd/{descriptor}")
    with open("/proc/self/maps") as file:
        shared = sorted({line.split()[-1] for line in file if "/dev/shm" in line})
    return {
        "threads": threads,
        "fds": descriptors,
        "shm": shared,
        "resident": int(status["VmRSS"].split()[0]) * 1024,
        "peak": int(status["VmHWM"].split()[0]) * 1024,
    }


def destroy():
    start = time.monotonic()
    dist.destroy_process_group()
    return {"seconds": time.monotonic() - start}


def leave():
    """Ends the script as its last line would: interpreter exit without destroy_process_group."""
    raise SystemExit(0)


COMMANDS = {
    f.__name__: f for f in (init, allreduce, many, collective, events, footprint, destroy, leave)
}


def main():
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        command = COMMANDS[request.pop("command")]
        try:
            answer = {"ok": True} | command(**request)
        except SystemExit:
            LEAVING.append(True)
            print(json.dumps({"ok": True, "leaving": time.monotonic()}), flush=True)
            raise
        except BaseException as error:  # noqa: BLE001 - every failure is an answer
            answer = {"ok": False, "trace": traceback.format_exc()} | error_of(error)
        # One write: other threads announce on the same pipe (roles.say).
        print(json.dumps(answer, default=str) + "\n", end="", flush=True)


if __name__ == "__main__":
    main()
