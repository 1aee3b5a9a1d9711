"""How much of torch's own DistributedTest a backend passes, side by side.

    .venv/bin/python tests/conformance/run.py [--backend papilio,gloo] [--world-size 4]
        [--only PATTERN ...] [--time-limit S] [--jobs N] [--json FILE]

CPU only. The first backend is the one under test: the exit status is 0 when none of its tests
failed and it passed as many as each of the others, apart from the tests in KNOWN (report.py).
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

from report import known, print_report

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def run_suite(backend: str, arguments) -> dict:
    """Results by test name. Ends the whole program when the suite itself breaks."""
    command = [
        sys.executable, str(HERE / "suite.py"), "--backend", backend,
        "--world-size", str(arguments.world_size), "--jobs", str(arguments.jobs),
        "--time-limit", str(arguments.time_limit), "--only", *(arguments.only or []),
    ]  # fmt: skip
    log = ROOT / "build" / f"conformance-{backend}.log"
    log.parent.mkdir(exist_ok=True)
    results: dict = {}
    begun = time.monotonic()
    with (
        open(log, "w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT) as suite,
    ):
        count = None
        for line in suite.stdout:
            result = json.loads(line)
            if count is None:
                count = result["count"]
                continue
            results[result.pop("test")] = result
            show(arguments, backend, len(results), count)
    if suite.returncode != 0 or len(results) != count:
        sys.exit(
            f"conformance: the suite for {backend} ended with {suite.returncode} after "
            f"{len(results)} of {count} tests; its output is in {log}"
        )
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(f"{backend}: {count} tests in {time.monotonic() - begun:.0f} s", flush=True)
    return results


def show(arguments, backend: str, done: int, count: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{backend}: {done}/{count}", end="", file=sys.stderr, flush=True)


def good(results: dict) -> bool:
    """Did the first backend pass everything that the others pass, and fail nothing?"""
    first, *others = results
    for test, result in results[first].items():
        if result["outcome"] == "passed" or known(first, test, result):
            continue
        passed_elsewhere = any(results[other][test]["outcome"] == "passed" for other in others)
        if result["outcome"] == "failed" or passed_elsewhere:
            return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="papilio,gloo", help="names, separated by commas")
    parser.add_argument("--world-size", type=int, default=4)
    parser.add_argument("--only", nargs="*", help="test names; * and ? as in a shell")
    parser.add_argument("--time-limit", type=float, default=120, help="seconds for one test")
    parser.add_argument("--jobs", type=int, default=2, help="tests at the same time")
    parser.add_argument("--json", type=pathlib.Path, help="writes all results into this file")
    arguments = parser.parse_args()
    names = arguments.backend.split(",")
    results = {}
    for name in names:
        results[name] = run_suite(name, arguments)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1))
    print_report(results, arguments.world_size)
    return 0 if good(results) else 1


if __name__ == "__main__":
    sys.exit(main())
