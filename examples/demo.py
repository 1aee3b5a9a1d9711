"""The main job: DDP training that goes on through a kill, a freeze and a wrong model.

    python examples/demo.py            (make demo does this after the build)

Trains examples/train_gpt.py, which knows nothing of faults, on 4 ranks: first undisturbed, then
with a supervisor that kills rank 0, freezes rank 1 for some seconds and gives rank 2 another model.
Prints a timeline and a summary, writes build/demo/timeline.png. Exit status 0 when every promise in
the list at the end held, 1 when one did not, 130 after Ctrl-C.
"""

import argparse
import pathlib
import signal
import sys
import time

from fault_demo import checks, plot, summary, timeline
from fault_demo.history import load
from fault_demo.job import ROOT, Job, plan


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=300, help="training steps of each run")
    parser.add_argument("--patience", type=float, default=5.0, help="PAPILIO_PATIENCE, seconds")
    parser.add_argument(
        "--transport",
        choices=("ucx", "shm", "auto"),
        default="ucx",
        help="PAPILIO_TRANSPORT; the default is the lane that also works between hosts",
    )
    parser.add_argument("--freeze", type=float, default=4.0, help="seconds that rank 1 is stopped")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "demo")
    options = parser.parse_args(arguments)
    if options.steps < 80:
        parser.error(f"--steps {options.steps}: the faults need at least 80 steps")
    # After 20 clean rounds the others wait 1 s for a usual rank, longer only where lags are usual.
    if options.freeze < min(2.0, options.patience):
        parser.error(f"--freeze {options.freeze:g}: shorter than 2 s, the others might just wait")
    return options


def progress(start: float):
    def say(text: str) -> None:
        print(f"demo {time.monotonic() - start:5.1f} s: {text}", file=sys.stderr, flush=True)

    return say


def run(options, say):
    """Both jobs: (faulty, fault-free) as histories."""
    say(f"fault-free run, 4 ranks, {options.steps} steps")
    settings = {
        "PAPILIO_PATIENCE": f"{options.patience:g}",
        "PAPILIO_TRANSPORT": options.transport,
    }
    calm = Job(options.out / "fault-free", options.steps, settings, [], say).run()
    say("the same with faults")
    faults = plan(options.steps, options.freeze)
    hurt = Job(options.out / "faults", options.steps, settings, faults, say).run()
    return load(hurt), load(calm)


def show(options, history, reference, results) -> None:
    witness, frozen = checks.UNTOUCHED, checks.FROZEN
    print(
        f"\nDDP training of a byte-level GPT on the Python standard library's sources, 4 ranks, "
        f"{options.steps} steps,\nPAPILIO_TRANSPORT={options.transport} (default auto), "
        f"PAPILIO_PATIENCE={options.patience:g} s (default 5 s).\n"
    )
    print(timeline.text(history, frozen, witness))
    print(f"\nPhases, as rank {witness} saw them\n{summary.phase_table(history, witness)}")
    print(
        f"\nRanks; loss in nats per byte on held-out text\n{summary.rank_table(history, reference)}"
    )
    print(f"\nPromises\n{summary.check_list(results)}")


def main() -> int:
    options = parse()
    start = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    try:
        history, reference = run(options, progress(start))
    except KeyboardInterrupt:
        print("demo: interrupted, all ranks stopped", file=sys.stderr)
        return 130
    results = checks.all_checks(history, reference, options.patience)
    show(options, history, reference, results)
    if all(history.steps):
        picture = options.out / "timeline.png"
        plot.draw(picture, history, reference, checks.UNTOUCHED, options.patience)
        print(f"\nPicture: {picture}; logs of both runs beside it.")
    failed = [check for check in results if not check.good]
    for check in failed:
        print(f"demo: did not hold: {check.promise}: {check.evidence}", file=sys.stderr)
    print(f"{len(results) - len(failed)} of {len(results)} promises held, "
          f"{time.monotonic() - start:.0f} s")  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
