"""Measures what is promised about faults in numbers, and judges it.

    python tests/bounds [--only NAME ...] [--rounds N] [--times N] [--output-dir build/bounds]
    python tests/bounds --docs docs/faults.md

Prints one table, writes ``bounds.json`` (promises that were not asked for keep their last result
there), and ends with status 1 when a bound does not hold. ``--docs`` puts the table of that file
between the markers in a page and measures nothing.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import pathlib
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / name) for name in ("python", "chaos")), str(ROOT)]

import figures  # noqa: E402
import page  # noqa: E402

# Each is a module here with run(arguments), which gives figures and what they were made from.
PROMISES = ("false-strikes", "kill", "stop", "straggler", "rejoin", "scores")
BEGIN = "<!-- bounds: begin (make bounds-docs writes what is between these lines) -->"
END = "<!-- bounds: end -->"


def extension() -> str:
    """A digest of the extension that the ranks load. Where this tree has none, an environment that
    several trees share finds that of another one, and figures would be said of the wrong code."""
    origin = pathlib.Path(importlib.util.find_spec("papilio._C").origin)
    if not origin.is_relative_to(ROOT):
        raise ImportError(
            f"{origin} would be measured, which is not of {ROOT}; run `make extension`"
        )
    return hashlib.sha256(origin.read_bytes()).hexdigest()[:16]


def measured_by(run, arguments) -> tuple:
    """Figures and samples, all of one extension."""
    before = extension()
    found, samples = run(arguments)
    if extension() != before:
        raise ImportError("the extension was built anew during the measurement; measure again")
    return found, samples, before


def measure(name: str, arguments) -> dict:
    begin, load = time.monotonic(), os.getloadavg()[0]
    try:
        run = importlib.import_module(name.replace("-", "_")).run
        found, samples, of = measured_by(run, arguments)
    except Exception as error:  # noqa: BLE001 - the other promises are measured nevertheless
        traceback.print_exc()
        first = (str(error).splitlines() or [""])[0]
        note = f"{type(error).__name__}: {first}"[:200]
        found, samples = [figures.Figure(name, "the measurement itself", 1, 0, "error", note)], {}
        of = None
    seconds = round(time.monotonic() - begin)
    return {
        "figures": [vars(figure) for figure in found],
        "extension": of,
        "seconds": seconds,
        "cpus": os.cpu_count(),
        "load": load,  # before: of whatever else the machine did
        "samples": samples,
    }


def write(path: pathlib.Path, results: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(results, indent=1) + "\n")
    new.replace(path)


def read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def all_figures(results: dict, names) -> list:
    return [figures.Figure(**f) for name in names for f in results[name]["figures"]]


def into_docs(docs: pathlib.Path, results: dict) -> None:
    names = [name for name in PROMISES if name in results]
    table = figures.markdown(all_figures(results, names))
    seconds = sum(results[name]["seconds"] for name in names)
    cpus = " and ".join(sorted({str(results[name]["cpus"]) for name in names}))
    load = max(results[name]["load"] for name in names)
    summary = f"Measured in {seconds} s on {cpus} CPUs; load before, at most: {load:.1f}."
    page.put(docs, BEGIN, END, f"{table}\n\n{summary}")


def arguments_of(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=PROMISES, default=PROMISES, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=10_000, help="fault-free rounds per load")
    parser.add_argument("--times", type=int, help="faults (each promise has its own number)")
    parser.add_argument("--output-dir", type=pathlib.Path, default=ROOT / "build" / "bounds")
    parser.add_argument("--docs", type=pathlib.Path, help="measure nothing, write the page")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    arguments = arguments_of(argv)
    path = arguments.output_dir / "bounds.json"
    results = read(path)
    if arguments.docs:
        into_docs(arguments.docs, results)
        return 0
    for name in arguments.only:
        print(f"{name}: measuring", file=sys.stderr, flush=True)
        measured = measure(name, arguments)
        results = read(path) | {name: measured}  # another run may have written others meanwhile
        write(path, results)
    found = all_figures(results, arguments.only)
    print(figures.text(found))
    return 0 if figures.hold(found) else 1


if __name__ == "__main__":
    sys.exit(main())
