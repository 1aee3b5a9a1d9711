"""A million simulated collectives under random faults, over all cores.

    tools/soak_sim.py [--rounds 1000000] [--first SEED] [--processes N] [--program sim_test]

Prints each seed that broke a promise with the command that repeats it; exits with 1 if there was
one, or if a process ended in another way than by its verdict.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEEDS_APART = 10_000_000  # of two processes: more than either uses
DONE = re.compile(r"^(\d+) collectives in (\d+) jobs from seed (\d+): (\d+) returns")
FAILED = re.compile(r"^FAILED seed (\d+): (.*)")


def start(program, kind, first, rounds, log):
    environment = os.environ | {
        "PAPILIO_SIM_FIRST": str(first),
        "PAPILIO_SIM_ROUNDS": str(rounds),
    }
    with open(log, "wb") as file:
        return subprocess.Popen(
            ["nice", program, f"--gtest_filter={kind}.*"],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def verdict(log, code, counts, kind, program):
    """Adds what one process found; returns its violations, None if it did not come to an end."""
    text = log.read_text(errors="replace")
    done = [match for match in map(DONE.match, text.splitlines()) if match]
    failed = [match for match in map(FAILED.match, text.splitlines()) if match]
    for match in failed:
        print(f"seed {match[1]}: {match[2]}")
        print(f"  PAPILIO_SIM_SEED={match[1]} {program} --gtest_filter={kind}.*")
    for match in done:
        for key, value in zip(
            ("rounds", "jobs", "returns"), (match[1], match[2], match[4]), strict=True
        ):
            counts[key] += int(value)
    if not done or (code != 0 and not failed):
        print(f"{log}: exit status {code}, see there")
        return None
    return len(failed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=100_000_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--program", default=str(ROOT / "build/release/sim_test"))
    parser.add_argument("--kinds", nargs="+", default=["RandomJobs"], help="test suites")
    arguments = parser.parse_args()
    out = ROOT / "build/soak-sim"
    out.mkdir(parents=True, exist_ok=True)
    each = -(-arguments.rounds // (arguments.processes * len(arguments.kinds)))
    begin = time.monotonic()
    running = []
    for index in range(arguments.processes):
        for kind in arguments.kinds:
            log = out / f"{kind}-{index}.log"
            first = arguments.first + index * SEEDS_APART
            running.append((start(arguments.program, kind, first, each, log), log, kind))
    counts = {"rounds": 0, "jobs": 0, "returns": 0}
    found = [
        verdict(log, process.wait(), counts, kind, arguments.program)
        for process, log, kind in running
    ]
    violations = sum(number or 0 for number in found)
    print(
        f"{counts['rounds']} rounds in {counts['jobs']} jobs (seeds from {arguments.first}, "
        f"{arguments.processes} processes), {counts['returns']} returns: {violations} violations "
        f"in {time.monotonic() - begin:.0f} s"
    )
    sys.exit(0 if all(number == 0 for number in found) else 1)


if __name__ == "__main__":
    main()
