"""Runs torch's DistributedTest for one backend, one process group per test; JSON lines on stdout.

    suite.py --backend papilio --world-size 4 [--only PATTERN ...] [--time-limit S] [--jobs N]

Imports everything once, then forks the ranks of every test: nothing but imports has happened before
a fork, so that a rank costs next to nothing. A test passes when all of its ranks say so, not only
rank 0, which is all that torch itself looks at.
"""

import argparse
import atexit
import contextlib
import faulthandler
import fnmatch
import gc
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import traceback
import unittest
from unittest import mock

import schedule
from report import EXTRA


class HeldToGloo(str):
    """A backend's name that also says "gloo" when it is asked.

    The suite compares names to decide which tests a backend can do; "gloo" is the list that a
    backend for CPU tensors should be held to. Everything else sees the real name.
    """

    def __eq__(self, other):
        return str.__eq__(self, other) is True or other == "gloo"

    def __ne__(self, other):
        return not self == other

    def __hash__(self):  # the suite also asks whether the name is in a set of names
        return hash("gloo")


def load(backend: str):
    """The suite's module, imported with this backend as its subject."""
    from torch.testing._internal import common_distributed

    if backend != "gloo":
        __import__(backend)  # a name that torch does not know belongs to the package of that name
        common_distributed.DistTestCases.backend_feature["plugin"].add(backend)
    read = type(os.environ).__getitem__

    def answer(environment, key):
        return HeldToGloo(backend) if key == "BACKEND" else read(environment, key)

    with mock.patch.object(type(os.environ), "__getitem__", answer):
        from torch.testing._internal.distributed import distributed_test
    return distributed_test


def suite_class(module):
    class Suite(module.TestDistBackend, module.DistributedTest._DistTestBase):
        pass

    return Suite


def skip_codes() -> dict:
    from torch.testing._internal.common_distributed import TEST_SKIPS

    return {skip.exit_code: skip.message for skip in TEST_SKIPS.values()}


def become_rank(suite, test: str, rank: int, folder: str) -> None:
    """In the forked process: runs the test, then ends with its exit code."""
    log = os.open(f"{folder}/rank{rank}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["TEMP_DIR"] = folder
    sys.modules[suite.__mro__[1].__module__].INIT_METHOD = f"file://{folder}/init_store"
    _, ours = multiprocessing.Pipe()
    code = 1
    try:
        suite._run(rank, test, f"{folder}/store", ours)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    # As multiprocessing ends a forked process: taking the whole interpreter apart would cost more
    # than the test.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_test(runner, suite, test: str, label: str) -> None:
    running = runner.begin(label)
    for rank in range(runner.ranks):
        pid = os.fork()
        if pid == 0:
            become_rank(suite, test, rank, running.folder)
        running.add(pid)


def selected(suite, patterns: list) -> list:
    names = unittest.TestLoader().getTestCaseNames(suite)
    return [n for n in names if not patterns or any(fnmatch.fnmatch(n, p) for p in patterns)]


def kept_for_others(method) -> bool:
    """Does torch keep this test for MPI by name, although nothing in it needs MPI?"""
    reason = getattr(method, "__unittest_skip_why__", "")
    return re.fullmatch("Only MPI supports (CPU )?all_to_all(_single)?", reason) is not None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", required=True)
    parser.add_argument("--world-size", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--time-limit", type=float, default=120)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    os.environ |= {
        "BACKEND": arguments.backend,
        "WORLD_SIZE": str(arguments.world_size),
        "CUDA_VISIBLE_DEVICES": "",  # else every test is skipped for want of a GPU per rank
        "MASTER_ADDR": "127.0.0.1",
        "INIT_METHOD": "file://",  # decides what is skipped; become_rank() names the file
        "OMP_NUM_THREADS": "1",
    }
    # Results go to the real stdout; whatever an import prints must not come between them.
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        os.environ["TEMP_DIR"] = scratch
        module = load(arguments.backend)
    suite = suite_class(module)
    # Inherited by the ranks: tells what one that crashed or ran out of time was doing.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    gc.freeze()  # a collection in a rank would touch, and so copy, everything that it inherited
    tests = selected(suite, arguments.only)
    extra = [test for test in tests if kept_for_others(getattr(suite, test))]
    print(json.dumps({"count": len(tests) + len(extra)}), file=results, flush=True)
    runner = schedule.Schedule(
        ranks=arguments.world_size,
        time_limit=arguments.time_limit,
        jobs=arguments.jobs,
        skips=skip_codes(),
        report=lambda result: print(json.dumps(result), file=results, flush=True),
    )
    for test in tests:
        method = getattr(suite, test)
        if getattr(method, "__unittest_skip__", False):
            runner.skipped(test, method.__unittest_skip_why__)
        else:
            run_test(runner, suite, test, test)
    for test in extra:
        run_test(runner, suite, test, test + EXTRA)
    runner.finish()


if __name__ == "__main__":
    main()
