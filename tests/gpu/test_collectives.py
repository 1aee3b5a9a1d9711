"""Collectives on tensors of the GPU: the tests that run everywhere on a device without hardware."""

import os
import pathlib
import subprocess
import sys

import pytest

from papilio import _native

ROOT = pathlib.Path(__file__).resolve().parents[2]


THROUGH_THE_HOST = ["tests/python/test_device.py", "tests/chaos/test_hierarchy_device.py"]
BY_REFERENCE = ["tests/python/test_device_lane.py", "tests/chaos/test_hierarchy_lane.py"]


@pytest.mark.parametrize("tests", THROUGH_THE_HOST + BY_REFERENCE)
@pytest.mark.timeout(900)
def test_the_device_tests_on_the_gpu(tests):
    """Its ranks share one GPU if there are not enough."""
    if tests in BY_REFERENCE:
        assert _native.cuda_kernels(), "build the extension with: PAPILIO_CUDA=1 make build"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / tests],
        env=os.environ | {"DEVICE_UNDER_TEST": "cuda"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
