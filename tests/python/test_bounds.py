"""The program that judges the promised figures (tests/bounds) judges them rightly."""

import importlib.util
import json
import pathlib
import sys
import types

import pytest
from cluster import HERE, SOAK

BOUNDS = pathlib.Path(HERE).parent / "bounds"


@pytest.fixture(scope="module")
def bounds():
    """Its __main__ as a module; what it puts on the path stays only as long as these tests."""
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("bounds_main", BOUNDS / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path


@pytest.fixture
def promise(bounds, monkeypatch):
    """A promise named "fake" that measures what it is told."""

    def define(run):
        monkeypatch.setitem(sys.modules, "fake", types.SimpleNamespace(run=run))
        monkeypatch.setattr(bounds, "PROMISES", ("fake",))

    return define


def measured(bounds, value, most):
    return lambda arguments: ([bounds.figures.Figure("fake", "time", value, most, "ms")], [value])


@pytest.mark.parametrize(
    "value,most,status,verdict",
    [
        (3.0, 3.0, 0, "ok"),
        (3.01, 3.0, 1, "FAILED"),
        (float("nan"), 3.0, 1, "FAILED"),
        (9.0, None, 0, "-"),
        (None, 3.0, 0, "n/a"),
    ],
)
def test_a_bound_that_does_not_hold_is_the_exit_status(
    bounds, promise, tmp_path, capsys, value, most, status, verdict
):
    promise(measured(bounds, value, most))
    assert bounds.main(["--output-dir", str(tmp_path)]) == status
    assert verdict in capsys.readouterr().out.splitlines()[1].split()
    assert len(json.loads((tmp_path / "bounds.json").read_text())["fake"]["figures"]) == 1


def test_a_measurement_that_breaks_is_no_success(bounds, promise, tmp_path, capsys):
    def breaks(arguments):
        raise TimeoutError("rank 1 did not answer")

    promise(breaks)
    assert bounds.main(["--output-dir", str(tmp_path)]) == 1
    assert "TimeoutError: rank 1 did not answer" in capsys.readouterr().out


def test_what_was_built_from_another_tree_is_not_measured(
    bounds, promise, tmp_path, capsys, monkeypatch
):
    other = types.SimpleNamespace(origin="/elsewhere/papilio/_C.so")
    monkeypatch.setattr(bounds.importlib.util, "find_spec", lambda name: other)
    promise(measured(bounds, 2.0, 3.0))
    assert bounds.main(["--output-dir", str(tmp_path)]) == 1
    assert "/elsewhere/papilio/_C.so would be measured" in capsys.readouterr().out


def test_a_build_during_the_measurement_spoils_it(bounds, promise, tmp_path, capsys, monkeypatch):
    digests = iter(["one", "other"])
    monkeypatch.setattr(bounds, "extension", lambda: next(digests))
    promise(measured(bounds, 2.0, 3.0))
    assert bounds.main(["--output-dir", str(tmp_path)]) == 1
    assert "was built anew during the measurement" in capsys.readouterr().out


def test_the_table_goes_into_the_page(bounds, promise, tmp_path, capsys):
    promise(measured(bounds, 2.0, 3.0))
    assert bounds.main(["--output-dir", str(tmp_path)]) == 0
    page = tmp_path / "page.md"
    page.write_text(f"before\n{bounds.BEGIN}\nold\n{bounds.END}\nafter\n")
    assert bounds.main(["--output-dir", str(tmp_path), "--docs", str(page)]) == 0
    lines = page.read_text().splitlines()
    assert "| fake | time | 2 ms | at most 3 ms | ok |  |" in lines
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in lines


if SOAK:  # measurements themselves, short: those that no other load on the machine may break

    @pytest.mark.timeout(900)
    @pytest.mark.parametrize("only", ["false-strikes", "scores"])
    def test_what_is_promised(bounds, tmp_path, capsys, only):
        some = ["--only", only, "--rounds", "500", "--output-dir", str(tmp_path)]
        assert bounds.main(some) == 0, capsys.readouterr().out
