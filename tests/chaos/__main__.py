"""The chaos matrix: every fault in every phase, size and number of ranks, on real processes.

    python tests/chaos [--only TEXT ...] [--output-dir build/chaos] [--docs docs/faults.md]

``--only`` keeps the cases whose name has all these words ("SIGKILL", "4 KiB", "8 ranks"). Prints
one table, writes ``chaos.json`` (a part of the matrix is added to what is there), and ends with
status 1 when any case failed. ``--docs`` puts the table of that file between the markers in a page
and runs nothing.
"""

import argparse
import json
import os
import pathlib
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "python"), ROOT]

import cases  # noqa: E402
import network  # noqa: E402
import runner  # noqa: E402
import table  # noqa: E402


def records(chosen: list, net, why_no_network: str | None):
    """One record per case, as it is done."""
    for number, case in enumerate(chosen, 1):
        record = {
            "fault": case.fault,
            "phase": case.phase,
            "size": case.size,
            "ranks": case.ranks,
        }
        reason = cases.not_a_case(case)
        if reason is None and case.fault in cases.NETWORK:
            reason = why_no_network
        if reason is not None:
            yield record | {"result": "n/a", "reason": reason}
            continue
        outcome = runner.run(case, net)
        result = "failed" if outcome.findings else "ok"
        print(f"[{number}/{len(chosen)}] {result:6} {outcome.seconds:6.2f} s  {case}", flush=True)
        for finding in outcome.findings:
            print("    " + finding.replace("\n", "\n    "), flush=True)
        yield record | {
            "result": result,
            "seconds": round(outcome.seconds, 2),
            "victims": outcome.victims,
            "evidence": outcome.evidence,
            "findings": outcome.findings,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="TEXT")
    parser.add_argument("--output-dir", default=os.path.join(ROOT, "build", "chaos"))
    parser.add_argument("--docs", type=pathlib.Path)
    arguments = parser.parse_args()
    out = pathlib.Path(arguments.output_dir)
    if arguments.docs:
        done = json.loads((out / "chaos.json").read_text())
        table.into_docs(arguments.docs, done)
        return 0
    chosen = [c for c in cases.all_cases() if all(text in str(c) for text in arguments.only)]
    why = network.unavailable()
    wants = why is None and any(c.fault in cases.NETWORK for c in chosen)
    net = network.Network(max(cases.RANKS)) if wants else None
    # A part of the matrix is added to what there is; the whole starts afresh.
    result = Result(out / "chaos.json", keep=bool(arguments.only))
    try:
        for record in records(chosen, net, why):
            result.add(record)
    finally:
        if net:
            net.close()
    print(table.text(result.asdict()))
    return 1 if result.failed() or not result.done else 0


class Result:
    """The file with what was found, complete after every case."""

    def __init__(self, path: pathlib.Path, keep: bool):
        self._path = path
        self.done: dict = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if keep and path.exists():
            for record in json.loads(path.read_text())["cases"]:
                self.done[self._key(record)] = record

    @staticmethod
    def _key(record: dict) -> tuple:
        return tuple(record[name] for name in ("fault", "phase", "size", "ranks"))

    def add(self, record: dict) -> None:
        self.done[self._key(record)] = record
        text = json.dumps(self.asdict(), indent=1, default=str)
        self._path.with_suffix(".new").write_text(text + "\n")
        self._path.with_suffix(".new").replace(self._path)

    def asdict(self) -> dict:
        cases_done = list(self.done.values())
        seconds = round(sum(record.get("seconds", 0) for record in cases_done))
        return {"cpus": os.cpu_count(), "seconds": seconds, "cases": cases_done}

    def failed(self) -> bool:
        return any(record["result"] == "failed" for record in self.done.values())


if __name__ == "__main__":
    sys.exit(main())
