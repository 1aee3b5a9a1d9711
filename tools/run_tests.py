"""Runs the C++ test programs of a preset and the Python tests; the last line counts them all.

    tools/run_tests.py [--preset release] [--only cpp|python] [--timeout SECONDS]

Last line: ``N passed, N failed, N skipped``. A program that crashes or hangs counts as failed.
"""

import argparse
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Leak reports of code that is not ours: UCX keeps its tables until the process ends.
SANITIZER_ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0",
    "LSAN_OPTIONS": f"suppressions={ROOT}/tools/lsan.supp:print_suppressions=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
    "UCX_MEM_MMAP_HOOK_MODE": "none",
    "UCX_LOG_LEVEL": "fatal",
}


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add_junit(self, path: pathlib.Path) -> bool:
        """Adds the results of one XML file; False when it is missing or damaged."""
        try:
            root = ET.parse(path).getroot()
        except (OSError, ET.ParseError):
            return False
        for case in root.iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                self.failed += 1
            elif case.find("skipped") is not None or case.get("status") == "notrun":
                self.skipped += 1
            else:
                self.passed += 1
        return True


def run(command, timeout, environment, log):
    """Return code, 'timeout' as 124; output goes to `log`. Leaves no process behind."""
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,  # a group of its own: the ranks it starts end with it
        )
        try:
            return process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            return 124
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_program(name, command, timeout, environment, tally, out):
    xml = out / f"{name}.xml"
    log = out / f"{name}.log"
    xml.unlink(missing_ok=True)
    before = tally.failed
    start = time.monotonic()
    code = run(command(xml), timeout, environment, log)
    complete = tally.add_junit(xml)
    if code != 0 and tally.failed == before or not complete:
        tally.failed += 1
    good = tally.failed == before
    why = "" if good else (" (timed out)" if code == 124 else f" (exit status {code})")
    print(
        f"{'ok  ' if good else 'FAIL'} {name}{why} in {time.monotonic() - start:.0f} s", flush=True
    )
    if not good:
        print(log.read_text(errors="replace")[-20000:], flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--preset", default="release")
    parser.add_argument("--only", choices=("cpp", "python"))
    parser.add_argument("--timeout", type=float, default=1500, help="seconds per program")
    arguments = parser.parse_args()
    build = ROOT / "build" / arguments.preset
    out = build / "test-results"
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | SANITIZER_ENVIRONMENT
    tally = Tally()
    if arguments.only != "python":
        programs = sorted(build.glob("*_test"))
        if not programs:
            print(f"no test programs in {build}: build it first", flush=True)
            tally.failed += 1
        for program in programs:
            run_program(
                program.name,
                lambda xml, p=program: [str(p), f"--gtest_output=xml:{xml}"],
                arguments.timeout,
                environment,
                tally,
                out,
            )
    if arguments.only != "cpp":
        run_program(
            "pytest",
            lambda xml: [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "--timeout=300",
                "--durations=15",
                f"--junitxml={xml}",
                "tests/python",
                "tests/chaos",
            ],
            arguments.timeout,
            os.environ,
            tally,
            out,
        )
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped")
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
