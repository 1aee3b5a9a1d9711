"""Prints the results of all backends side by side."""

import collections
import re

import torch

OUTCOMES = ("passed", "failed", "skipped")
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
        counts = [
            sum(result["outcome"] == outcome for result in by_test.values())
            for by_test in results.values()
        ]
        print(f"{outcome:50}" + "".join(f"{count:>10}" for count in counts))


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
    for name, by_test in results.items():
        for test, result in by_test.items():
            if result["outcome"] != "failed":
                continue
            if known(name, test, result):
                print(f"\n{name}: {test} can not pass: {KNOWN[test][1]}")
                continue
            print(f"\n{name}: {test} failed after {result['seconds']} s, {result['reason']}")
            for line in result["output"]:
                print(f"    | {line}")
