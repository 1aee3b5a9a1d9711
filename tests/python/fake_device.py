"""Loads the fake device (tests/process_group/fake_device) into torch, as "fake"."""

import os
import sys
import types

import torch
import torch.distributed as dist

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

sys.path.insert(0, os.path.join(REPOSITORY, "build", "release", "tests"))
torch.utils.rename_privateuse1_backend("fake")
import papilio_fake_device  # noqa: E402 - torch has to know the name first

_module = types.ModuleType("torch.fake")
_module.is_available = lambda: True
_module.device_count = lambda: 1
_module.current_device = lambda: 0
_module._is_in_bad_fork = lambda: False
_module.is_initialized = lambda: True
_module.synchronize = papilio_fake_device.synchronize
torch._register_device_module("fake", _module)

# What Options.host_backend="papilio" needs of a device.
from papilio import _native  # noqa: E402

_native.load().register_device_memory("fake:0", papilio_fake_device.device_memory())

NAME = "fake"
hold = papilio_fake_device.hold
fill_later = papilio_fake_device.fill_later
read_later = papilio_fake_device.read_later
synchronize = papilio_fake_device.synchronize
idle = papilio_fake_device.idle
races = papilio_fake_device.races
uses = papilio_fake_device.uses
set_capturing = papilio_fake_device.set_capturing


def _stand_in(options, _):
    dist.Backend._ensure_backend_registered("gloo")
    gloo = dist.Backend._plugins["GLOO"].creator_fn(options, None)
    return papilio_fake_device.StandIn(gloo)


dist.Backend.register_backend("stand-in", _stand_in, extended_api=True, devices=["fake"])
HOST_BACKEND = "stand-in"
sums = papilio_fake_device.sums
averages = papilio_fake_device.averages
signal_at_average = papilio_fake_device.signal_at_average


class Stream:
    """``with Stream():`` what is enqueued inside goes to a stream of its own."""

    def __init__(self):
        self._number = papilio_fake_device.new_stream()

    def __enter__(self):
        self._before = papilio_fake_device.exchange_stream(self._number)
        return self

    def __exit__(self, *_):
        papilio_fake_device.exchange_stream(self._before)
