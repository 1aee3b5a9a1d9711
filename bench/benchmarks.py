"""Measures everything that docs/benchmarks.md shows, then writes it.

    bench/benchmarks.py [--only NAME ...] [--no-page | --document-only]

Each run leaves its files in build/benchmarks/NAME. Exit status 1: a run failed, and the page was
not written.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys

import document
import runs

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "benchmarks"
DOCS = ROOT / "docs"


def measure(run) -> bool:
    print(f"{run.name}: python -m papilio.bench {run.arguments}", flush=True)
    command = [sys.executable, "-m", "papilio.bench", *run.arguments.split(), "-q"]
    command += ["--output-dir", str(RESULTS / run.name)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, flush=True)
    if done.returncode != 0:
        print(done.stderr[-2000:], file=sys.stderr)
        print(f"{run.name}: exit status {done.returncode}", file=sys.stderr)
    return done.returncode == 0


def write_page() -> None:
    """Raises FileNotFoundError for a run that was never made."""
    found = [
        (run, json.loads((RESULTS / run.name / "bench.json").read_text())) for run in runs.RUNS
    ]
    (DOCS / "benchmarks.md").write_text(document.page(found))
    for run in runs.RUNS:
        if run.plot:
            source = RESULTS / run.name / f"{run.plot}.png"
            shutil.copyfile(source, DOCS / "img" / document.image_name(run))


def main() -> int:
    names = [run.name for run in runs.RUNS]
    parser = argparse.ArgumentParser(description="Measures and writes docs/benchmarks.md.")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    less = parser.add_mutually_exclusive_group()
    less.add_argument("--no-page", action="store_true", help="measure only")
    less.add_argument("--document-only", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.document_only:
        wanted = [run for run in runs.RUNS if run.name in options.only]
        if not all([measure(run) for run in wanted]):
            return 1
    if options.no_page:
        return 0
    try:
        write_page()
    except FileNotFoundError as error:
        print(f"benchmarks: no {error.filename}; run it without --only first", file=sys.stderr)
        return 1
    print(f"wrote {DOCS / 'benchmarks.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
