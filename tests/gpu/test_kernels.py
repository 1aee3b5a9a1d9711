"""The kernels on the GPU of this machine: the bits of the host, near the rate of its memory."""

import pytest


@pytest.mark.timeout(1800)
def test_device_tests_pass(report):
    assert report["tests_passed"]


@pytest.mark.timeout(1800)
def test_kernels_move_bytes_at_the_memorys_rate(report):
    """Every kernel moves the minimum of bytes; half of a copy's rate is far below what it should
    reach, so that a shared machine passes, and far above what a kernel with a mistake does."""
    for device in report["kernels"]["devices"]:
        slow = [row for row in device["kernels"] if row["of_copy"] < 0.5]
        assert not slow, (device["name"], slow)
