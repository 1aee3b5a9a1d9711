"""These tests need a GPU; without one they are not run, and pytest says so in one line."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "tools" / "gpu_check.py")
gpu_check = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(gpu_check)

COUNT, WHY = gpu_check.gpus()
_not_run: list = []


def pytest_collection_modifyitems(config, items):
    if COUNT == 0:
        here = [item for item in items if item.path.is_relative_to(ROOT / "tests" / "gpu")]
        _not_run.extend(here)
        config.hook.pytest_deselected(items=here)
        items[:] = [item for item in items if item not in here]


def pytest_terminal_summary(terminalreporter):
    if _not_run:
        terminalreporter.write_line(f"no GPU: {len(_not_run)} GPU tests not run ({WHY})")


def pytest_sessionfinish(session, exitstatus):
    if _not_run and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture(scope="session")
def report(tmp_path_factory) -> dict:
    """What tools/gpu_check.py found on this machine."""
    import json
    import subprocess
    import sys

    path = tmp_path_factory.mktemp("gpu") / "check.json"
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "gpu_check.py", "--output", path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(path.read_text())
