"""Entry point: ``python -m papilio.bench``. Exit statuses are explained by ``--help``."""

import os
import sys
import time

from papilio.bench import cli, environment, fault_report, output, report

OK, WRONG, USAGE, HANG, GATE, UNFIRED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


def _judge(options, bench) -> tuple[int, str]:
    """Exit status and verdict of a run that came to its end."""
    wrong = sum(row["wrong"] for row in bench.results)
    if wrong:
        return WRONG, f"WRONG RESULTS: {wrong} elements"
    if options.planned:
        return _judge_faults(options, bench)
    slower = [
        item
        for item in bench.comparisons
        if options.gate is not None
        and item["size"] == bench.results[-1]["size"]
        and item["other"] == options.backends[1]
        and item["p50"] > options.gate * item["other_p50"]
    ]
    if slower:
        item = slower[0]
        found = item["p50"] / item["other_p50"]
        return GATE, f"GATE: {found:.3f} times {item['other']}, allowed {options.gate:g}"
    if not any(row["verified"] for row in bench.results) and options.collective != "barrier":
        return OK, "ok (nothing verified)"
    return OK, "ok"


def _judge_faults(options, bench) -> tuple[int, str]:
    """Of a run with faults and without wrong elements."""
    for row in bench.results:
        silent = [fault["spec"] for fault in row["faulted"]["faults"] if not fault["fired"]]
        if silent:
            return UNFIRED, f"NOT FIRED: {', '.join(silent)} with {row['backend']}"
    for row in bench.results:
        found = row["faulted"]
        if row["backend"] == options.backends[0] and found["failed"]:
            what = f"{found['failed']} calls of {row['size']} bytes failed"
            return HANG, f"DID NOT FINISH: {row['backend']}, {what}"
    return OK, "ok"


def _measure(options, bench, text) -> tuple[int, str]:
    from papilio.bench.supervise import DidNotFinish

    def on_size(rows):
        bench.progress.clear()
        text.rows(rows)

    try:
        bench.run(on_size)
        return _judge(options, bench)
    except DidNotFinish as error:
        return HANG, f"DID NOT FINISH: {error}"
    except cli.UsageError as error:
        return USAGE, f"NOT SUPPORTED: {error}"
    except KeyboardInterrupt:
        return INTERRUPTED, "INTERRUPTED: the sizes above are complete"
    finally:
        bench.progress.clear()


def _write(options, content: dict) -> None:
    results = content["results"]
    if options.json:
        output.write(options.json, output.json_text(content))
    if options.csv:
        output.write(options.csv, output.csv_text(results))
    if options.output_dir:
        folder = options.output_dir
        output.write(os.path.join(folder, "bench.json"), output.json_text(content))
        output.write(os.path.join(folder, "bench.csv"), output.csv_text(results))
        from papilio.bench import plots

        try:
            written = plots.draw(content, folder)
        except plots.Missing as error:
            print(f"papilio.bench: no plots: {error}", file=sys.stderr)
            written = []
        for path in ["bench.json", "bench.csv", *written]:
            print(f"# wrote {os.path.join(folder, path)}", file=sys.stderr)


def run(options) -> int:
    from papilio.bench.faulted import FaultBench
    from papilio.bench.supervise import Bench

    started = time.monotonic()
    facts = environment.collect()
    # Documents that go to stdout keep it for themselves.
    stream = sys.stderr if "-" in (options.json, options.csv) else sys.stdout
    text = report.Text(options, facts, stream)
    bench = (FaultBench if options.planned else Bench)(options, report.Progress())
    text.header()
    status, verdict = _measure(options, bench, text)
    text.comparison(bench.comparisons)
    if options.planned:
        fault_report.write(text, bench.results)
    seconds = time.monotonic() - started
    colour = stream.isatty() and "NO_COLOR" not in os.environ
    text.footer(bench, seconds, verdict, colour)
    content = output.document(options, facts, bench, verdict, status, seconds)
    # The CSV and plots need what the JSON may leave out.
    _write(options, content)
    return status


def main(arguments=None) -> int:
    try:
        options = cli.parse(arguments)
    except cli.UsageError as error:
        print(f"papilio.bench: {error} (see --help)", file=sys.stderr)
        return USAGE
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
