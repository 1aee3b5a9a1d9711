"""The machine-readable outputs: JSON (one document) and CSV (one line per size, backend, cycle)."""

import csv
import io
import json
import os
import sys

from papilio.bench import environment

SCHEMA_VERSION = 1
_STATS = ["samples", "avg", "min", "p25", "p50", "p75", "p90", "p95", "p99", "p999", "max"]
_STATS += ["cv_percent", "algbw", "busbw", "algbw_p50", "busbw_p50", "busbw_p25", "busbw_p75"]
_FIELDS = ["size", "count", "type", "op", "collective", "backend", "cycle", "iterations"]
_FIELDS += ["first_us"]


def document(options, facts: dict, bench, verdict: str, status: int, seconds: float) -> dict:
    """Everything that is known about a run."""
    results = []
    for row in bench.results:
        row = {key: value for key, value in row.items() if key != "combined_us"}
        if options.no_samples:
            del row["samples_us"]
        results.append(row)
    arguments = {
        key: value
        for key, value in vars(options).items()
        if key not in ("sizes", "quiet", "planned")
    }
    for key in ("faults", "stragglers"):
        arguments[key] = [item.spec for item in arguments[key]]
    return {
        "schema_version": SCHEMA_VERSION,
        **facts,
        "end": environment.now(),
        "args": arguments,
        "config": {
            "ranks": options.ranks,
            "backends": options.backends,
            "sizes": options.sizes,
            "combine": options.combine,
            "seed": options.seed,
            "init_seconds": bench.init_seconds,
        },
        "results": results,
        "comparisons": bench.comparisons,
        "memory": bench.memory,
        "summary": {
            "wrong": sum(row["wrong"] for row in bench.results),
            "verified": sum(row["verified"] for row in bench.results),
            "average_busbw": {name: _mean_busbw(bench, name) for name in options.backends},
            "wall_seconds": round(seconds, 3),
            "exit_status": status,
        },
        "verdict": verdict,
    }


def _mean_busbw(bench, name: str) -> float | None:
    bands = [r["stats"]["busbw"] for r in bench.results if r["backend"] == name]
    bands = [band for band in bands if band is not None]
    return sum(bands) / len(bands) if bands else None


def flat_rows(results: list) -> tuple[list, list]:
    """Header and lines of the CSV."""
    tail = ["verified", "wrong", "peak_bytes", "held_bytes", "init_bytes"]
    lines = []
    for row in results:
        worst = {
            key: max((memory.get(key, 0) for memory in row["memory"]), default=0)
            for key in ("peak", "held", "init")
        }
        lines.append(
            [row[key] for key in _FIELDS]
            + [row["stats"].get(key) for key in _STATS]
            + [row["verified"], row["wrong"], worst["peak"], worst["held"], worst["init"]]
        )
    return _FIELDS + _STATS + tail, lines


def csv_text(results: list) -> str:
    return table_text(*flat_rows(results))


def table_text(header, lines: list) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for line in lines:
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in line])
    return out.getvalue()


def write(path: str, text: str) -> None:
    """To a file, or to stdout for `-`."""
    if path == "-":
        sys.stdout.write(text)
        return
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def json_text(content: dict) -> str:
    return json.dumps(content) + "\n"
