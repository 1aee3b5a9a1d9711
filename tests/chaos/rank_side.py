"""What a rank of a chaos case runs: all-reduces in a row, each judged by the oracle."""

import os
import threading
import time

import nonfinite
import oracle
import torch.distributed as dist
import worker

import papilio


def one_round(numel, salt, dtype="float32", compute=0.0, bad=None, then=None) -> dict:
    """``bad``: as in nonfinite.py. ``then`` gets the tensor that came back."""
    rank, n = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if compute:
        threading.Event().wait(compute)  # the fault: this rank is busy with its model
    tensor = oracle.tensor(rank, salt, numel, dtype)
    spoiled = 0
    if bad and bad["rank"] == rank:
        nonfinite.spoil(tensor, bad)
        spoiled = nonfinite.count(tensor)
    begin = time.monotonic()
    try:
        work = dist.all_reduce(tensor, async_op=True)
        work.wait()
    except Exception as error:  # noqa: BLE001 - the judge says which ones are right
        end = time.monotonic()
        untouched = bool((tensor == oracle.tensor(rank, salt, numel, dtype)).all())
        times = {"begin": begin, "end": end, "when": time.time()}
        return {"ok": False, "untouched": untouched} | times | worker.error_of(error)
    end = time.monotonic()
    when = time.time()  # the clock of events
    report = papilio.report(work)
    if then:
        then(tensor)
    if bad:
        wrong = nonfinite.count_wrong(tensor, report, n, rank, salt, bad)
    else:
        wrong = oracle.count_wrong(tensor, report, n, rank, salt, "sum", dtype)
    return {
        "ok": True,
        "begin": begin,
        "end": end,
        "when": when,
        "wrong": wrong,
        "input_nonfinite": spoiled,
        "nonfinite": nonfinite.count(tensor) if bad else 0,
        "report": report.asdict(),
    }


def series(rounds: list, stop_at_error: bool = False) -> list:
    results = []
    for number in rounds:
        results.append(one_round(**number))
        if stop_at_error and not results[-1]["ok"]:
            break
    return results


ASKED_TO_LEAVE: list = []  # [True]: and the progress thread was held at that time


def obey(path: str) -> None:
    """Starts the thread that does to this process what the test says, in the middle of a call."""

    def listen():
        with open(path + ".do") as orders:
            word = orders.readline().strip()
        if word == "exit":
            os._exit(7)
        if word == "leave":
            leaving = threading.Thread(target=dist.destroy_process_group)
            leaving.start()
            # It waits for the progress thread, which is held: by now it has asked it to leave.
            leaving.join(0.2)
            ASKED_TO_LEAVE.append(leaving.is_alive())
            with open(path + ".go", "w") as go:
                go.write(".")
            leaving.join()

    threading.Thread(target=listen, daemon=True).start()


def aftermath() -> dict:
    """What this rank thinks of the others."""
    stats = papilio.stats()
    return {
        "events": list(worker.EVENTS),
        "blacklist": [vars(entry) for entry in papilio.blacklist()],
        "peers": [vars(peer) for peer in papilio.peers()],
        "rejected": stats["rejected"],
        "nonfinite_dropped": stats["nonfinite_dropped"],
        "damaged": stats.get("test", {}).get("damaged_bytes", 0),  # PAPILIO_TEST_DAMAGE
    }
