"""A link whose frames arrive a known time after they were sent: the process between two TAPs.

    python delay_line.py DESCRIPTOR DESCRIPTOR SECONDS     # started by network.py

Each frame that one gives goes to the other one that much later, in order. The kernels of many
machines have no netem; any has TAP. Ends when its stdin does.
"""

import collections
import contextlib
import fcntl
import os
import select
import struct
import sys
import time

_TUNSETIFF = 0x400454CA
_TAP, _NO_INFORMATION = 0x0002, 0x1000
_FRAME = 1 << 16
_MOST = 10_000  # frames on their way; more are dropped, as by any network


def open_tap(name: str) -> int:
    """A new device in the network namespace of the calling thread."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH14x", name.encode(), _TAP | _NO_INFORMATION)
    fcntl.ioctl(descriptor, _TUNSETIFF, request)
    return descriptor


def forward(ends: tuple, delay: float, end: int) -> None:
    under_way: collections.deque = collections.deque()  # (when it is due, where, frame)
    other = dict(zip(ends, reversed(ends), strict=True))
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        for descriptor in select.select([*ends, end], [], [], wait)[0]:
            if descriptor == end:
                return
            with contextlib.suppress(BlockingIOError):
                while len(under_way) < _MOST:
                    frame = os.read(descriptor, _FRAME)
                    under_way.append((time.monotonic() + delay, other[descriptor], frame))
        while under_way and under_way[0][0] <= time.monotonic():
            _, target, frame = under_way.popleft()
            with contextlib.suppress(OSError):  # a device that is down takes nothing
                os.write(target, frame)


if __name__ == "__main__":
    first, second = map(int, sys.argv[1:3])
    forward((first, second), float(sys.argv[3]), sys.stdin.fileno())
