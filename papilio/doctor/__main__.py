"""Entry point: ``python -m papilio.doctor``."""

import argparse
import dataclasses
import json
import os
import sys
import textwrap

from papilio import _native, _options
from papilio.doctor import facts, trial

_WIDTH = 110
_INDENT = 13

_EPILOG = """\
The trial starts two ranks of this host per lane and lets them average 4 KiB and 4 MiB; it takes
some seconds, most of them to import torch. Nothing else is started or changed.

exit status: 0 nothing is wrong; 1 something is, and the lines that begin with !! say what
"""


def _settings() -> list:
    """Environment variables of papilio, and the deadlines that follow."""
    out = []
    given = {name: value for name, value in os.environ.items() if name.startswith("PAPILIO_")}
    for name, value in sorted(given.items()):
        near = _options.nearest_known(name)
        if near is not None:
            out.append(
                facts.Line("settings", f"{name} means nothing", True, f"did you mean {near}?")
            )
        else:
            shown = "set, not shown" if name == "PAPILIO_SECRET" else value
            out.append(facts.Line("settings", f"{name}={shown}"))
    try:
        filled = _options.Options().validate()
        _options.log_level()
    except ValueError as error:
        return [*out, facts.Line("settings", str(error), True, "mend the variable or unset it")]
    try:
        native = _native.load()
    except ImportError:
        return out  # told under "versions"
    deadlines = native.deadlines(_options.to_settings(filled, native))
    return [*out, facts.Line("deadlines", deadlines.removeprefix("deadlines: "))]


def _trial(lane: str) -> facts.Line:
    found, wrong = trial.run(lane)
    if wrong:
        advice = "python -X faulthandler with PAPILIO_LOG=debug and this transport shows more"
        return facts.Line("trial", f"transport={lane} does not work: {wrong}", True, advice)
    times = ", ".join(f"{size} {value * 1e3:.2f} ms" for size, value in found["times"].items())
    return facts.Line(
        "trial",
        f"transport={lane}: two ranks averaged {times} (medians, slower rank), "
        f"lane {found['lane']}, {found['descriptors']} descriptors",
    )


def _print(lines: list) -> None:
    topic = ""
    for line in lines:
        head = line.topic if line.topic != topic else ""
        topic = line.topic
        mark = "!! " if line.problem else ""
        text = f"{mark}{line.text}" + (f"; {line.advice}" if line.advice else "")
        pad = " " * _INDENT
        print(
            textwrap.fill(text, _WIDTH, initial_indent=head.ljust(_INDENT), subsequent_indent=pad)
        )


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m papilio.doctor",
        description="What this machine offers papilio, and what is wrong with it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--no-trial", action="store_true", help="start no ranks")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    options = parser.parse_args(arguments)
    lines = facts.versions() + facts.host() + _settings() + facts.limits()
    lines += facts.interfaces(os.environ.get("PAPILIO_INTERFACE", "")) + facts.devices()
    lines += facts.tools()
    if not options.no_trial and not lines[0].problem:
        lines += [_trial(lane) for lane in ("shm", "ucx")]
    problems = sum(line.problem for line in lines)
    if options.json:
        print(json.dumps([dataclasses.asdict(line) for line in lines], indent=1))
    else:
        _print(lines)
        print(f"\n{problems} problem{'s' * (problems != 1)}" if problems else "\nnothing is wrong")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
