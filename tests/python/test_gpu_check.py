"""tools/gpu_check.py where no GPU is to be seen: one line, exit status 3, nothing built."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLIND = os.environ | {"CUDA_VISIBLE_DEVICES": ""}


def test_without_a_gpu_it_says_so(tmp_path):
    output = tmp_path / "check.json"
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "gpu_check.py", "--output", output],
        capture_output=True,
        text=True,
        env=BLIND,
    )
    assert done.returncode == 3, done
    (line,) = done.stdout.splitlines()
    assert line.startswith("gpu-check: no GPU was found (") and done.stderr == ""
    assert not output.exists()


def test_gpu_tests_are_said_not_to_run():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", ROOT / "tests" / "gpu"],
        capture_output=True,
        text=True,
        env=BLIND,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout
    told = [line for line in done.stdout.splitlines() if line.startswith("no GPU: ")]
    assert len(told) == 1 and "GPU tests not run" in told[0], done.stdout
