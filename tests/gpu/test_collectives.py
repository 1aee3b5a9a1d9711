"""Collectives on tensors of the GPU: the tests that run everywhere on a device without hardware."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "tests", ["tests/python/test_device.py", "tests/chaos/test_hierarchy_device.py"]
)
@pytest.mark.timeout(900)
def test_the_device_tests_on_the_gpu(tests):
    """Its ranks share one GPU if there are not enough."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / tests],
        env=os.environ | {"DEVICE_UNDER_TEST": "cuda"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
