"""What test_device.py runs on: DEVICE_UNDER_TEST=cuda, or the device without hardware."""

import os

if os.environ.get("DEVICE_UNDER_TEST", "fake") == "cuda":
    from cuda_device import *  # noqa: F403
else:
    from fake_device import *  # noqa: F403
