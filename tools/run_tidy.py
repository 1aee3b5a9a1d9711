"""Runs the pinned clang-tidy over csrc, one line per finding; exit status 1 when there is any.

    tools/run_tidy.py [--all] [room ...]

A file that was clean is not looked at again until it, a header of ours, its compile flags or
.clang-tidy changes (--all: look at everything). Configures build/lint, builds nothing.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "lint"
TIDY = ROOT / ".venv" / "bin" / "clang-tidy"
# What g++ knows and clang does not, and the precompiled header that g++ would have made.
GCC_ONLY = {"-Wno-restrict", "-Wno-stringop-overflow", "-Winvalid-pch", "-Werror"}
FINDING = re.compile(r"^(?P<file>/[^:]+):(?P<line>\d+):\d+: (?:warning|error): (?P<text>.*)$")


def configure() -> list:
    """The compile commands of build/lint, after configuring it."""
    command = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", "-DPAPILIO_TESTS=OFF"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"lint: cmake failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return json.loads((BUILD / "compile_commands.json").read_text())


def flags_of(entry) -> list:
    """Compiler arguments for clang, without output, input and g++ specials."""
    words = shlex.split(entry["command"])
    words = words[next(i for i, word in enumerate(words) if word.endswith("c++")) + 1 :]
    flags = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in ("-o", "-c", "-include"):
            skip = True
        elif word not in GCC_ONLY:
            flags.append(word)
    return flags


def fingerprint_of_headers() -> bytes:
    digest = hashlib.sha256((ROOT / ".clang-tidy").read_bytes())
    for lock in sorted(ROOT.glob("requirements-torch*.lock")):
        digest.update(lock.read_bytes())
    for header in sorted((ROOT / "csrc").rglob("*.hpp")):
        digest.update(header.read_bytes())
    return digest.digest()


def tidy(path: pathlib.Path, flags: list, shared: bytes, again: bool) -> set:
    """Findings of one file as printable lines."""
    key = hashlib.sha256(shared + path.read_bytes() + repr(flags).encode()).hexdigest()
    clean = BUILD / "clean" / key
    if clean.exists() and not again:
        return set()
    done = subprocess.run(
        [str(TIDY), "--quiet", str(path), "--", *flags], capture_output=True, text=True, cwd=ROOT
    )
    findings = set()
    for line in done.stdout.splitlines():
        if match := FINDING.match(line):
            file = os.path.relpath(os.path.realpath(match["file"]), ROOT)
            findings.add(f"{file}:{match['line']}: {match['text']}")
    if done.returncode != 0 and not findings:
        findings.add(f"{path.relative_to(ROOT)}: clang-tidy failed: {done.stderr.strip()[-500:]}")
    if not findings:
        clean.parent.mkdir(exist_ok=True)
        clean.touch()
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--all", action="store_true", help="forget which files were clean")
    parser.add_argument("rooms", nargs="*", help="folders of csrc (default: all)")
    options = parser.parse_args()
    jobs = {}
    for entry in configure():
        path = pathlib.Path(os.path.realpath(entry["file"]))
        if path.parts[: len(ROOT.parts) + 1] != (*ROOT.parts, "csrc"):
            continue
        if not options.rooms or path.parent.name in options.rooms:
            jobs[path] = flags_of(entry)
    if not jobs:
        sys.exit("lint: no files to look at")
    shared = fingerprint_of_headers()
    # The files that include torch take longest: first.
    order = sorted(jobs, key=lambda path: (path.parent.name != "process_group", path))
    findings = set()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(lambda p: tidy(p, jobs[p], shared, options.all), order):
            findings |= found
    print("\n".join(sorted(findings)), end="\n" if findings else "")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
