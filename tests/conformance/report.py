"""Prints the results of all backends side by side."""

import collections
import re

import torch

OUTCOMES = ("passed", "failed", "skipped")
# Ends the name of a test that torch skips by the backend's name and that was run all the same. Not
# counted among torch's.
EXTRA = " (kept for MPI)"
# Tests that no backend from outside of torch can pass, each with the text of that very failure.
KNOWN = {
    "test_ddp_logging_data_cpu": (
        "'custom'",
        "torch logs the type of every backend that is not its own as 'custom', and the test "
        "compares that with the backend's name",
    )
}


def known(backend: str, test: str, result: dict) -> bool:
    """Is this failure one of KNOWN, for the reason given there?"""
    if backend == "gloo" or test not in KNOWN or result["outcome"] != "failed":
        return False
    return any(KNOWN[test][0] in line for line in [result["reason"], *result["output"]])


def print_report(results: dict, world_size: int) -> None:
    print_counts(results, world_size)
    print_skips(results)
    print_differences(results)
    print_failures(results)


def print_counts(results: dict, world_size: int) -> None:
    title = f"DistributedTest of torch {torch.__version__}, {world_size} ranks"
    print(f"\n{title:50}" + "".join(f"{name:>10}" for name in results))
    for outcome in OUTCOMES:
        print_row(outcome, (count(by_test, outcome, False) for by_test in results.values()))
    for outcome in ("passed", "failed"):
        counts = [count(by_test, outcome, True) for by_test in results.values()]
        if any(counts):
            print_row(f"skipped by name for all but MPI, run here: {outcome}", counts)


def print_row(title: str, counts) -> None:
    print(f"{title:50}" + "".join(f"{number:>10}" for number in counts))


def count(by_test: dict, outcome: str, extra: bool) -> int:
    return sum(
        result["outcome"] == outcome and test.endswith(EXTRA) == extra
        for test, result in by_test.items()
    )


def print_skips(results: dict) -> None:
    counts = {
        # The reason may hold the backend's name, which would tear equal reasons apart.
        name: collections.Counter(
            re.sub(rf"\b{name}\b", "<backend>", result["reason"], flags=re.IGNORECASE)
            for result in by_test.values()
            if result["outcome"] == "skipped"
        )
        for name, by_test in results.items()
    }
    reasons = sum(counts.values(), collections.Counter())
    if reasons:
        print("\nSkipped, by reason")
    for reason, _ in reasons.most_common():
        numbers = "".join(f"{counts[name][reason]:>10}" for name in results)
        print(f"  {reason[:88]:88}{numbers}")


def print_differences(results: dict) -> None:
    first, *others = results
    for other in others:
        lines = [
            f"  {test}: {first} {result['outcome']}, {other} {results[other][test]['outcome']}"
            for test, result in results[first].items()
            if result["outcome"] != results[other][test]["outcome"]
        ]
        if lines:
            print("\nDifferent", *lines, sep="\n")


def print_failures(results: dict) -> None:
    """With the last lines of output for the backend under test."""
    subject = next(iter(results))
    for name, by_test in results.items():
        for test, result in by_test.items():
            if result["outcome"] != "failed":
                continue
            if known(name, test, result):
                print(f"\n{name}: {test} can not pass: {KNOWN[test][1]}")
                continue
            print(f"\n{name}: {test} failed after {result['seconds']} s, {result['reason']}")
            for line in result["output"] if name == subject else ():
                print(f"    | {line}")
