"""bench/: what docs/benchmarks.md is made of."""

import json
import os
import pathlib
import sys

import pytest
from test_bench import bench

from papilio.bench import cli

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "bench"))

import document  # noqa: E402
import runs  # noqa: E402


@pytest.mark.parametrize("run", runs.RUNS, ids=lambda run: run.name)
def test_every_run_can_be_asked_for(run):
    options = cli.parse(run.arguments.split())
    assert options.backends == ["papilio", "gloo"]  # two columns each


def test_names_are_unique():
    names = [run.name for run in runs.RUNS]
    assert len(set(names)) == len(names)


def rows_of(page: str) -> list:
    """Cells of the lines of tables, without heads and rules."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return [row for row in cells if not row[0].startswith("---") and "p50" not in " ".join(row)]


def measured(folder, arguments: str):
    done = bench(*arguments.split(), "--output-dir", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "bench.json").read_text())


def test_the_page_holds_what_was_measured(tmp_path):
    run = runs.Run(
        "tiny", "A tiny run", "--interleave papilio,gloo --ranks 2 -b 1K -e 4K -f 4 -n 120"
    )
    content = measured(tmp_path, run.arguments)
    page = document.page([(run, content)])
    assert f"## A tiny run\n\n`python -m papilio.bench {run.arguments}`\n" in page
    assert content["host"][0]["cpu"] in page
    assert content["git"]["commit"][:12] in page
    rows = rows_of(page)
    assert [row[0] for row in rows] == ["1 KiB", "4 KiB"]
    for row, item in zip(rows, content["comparisons"], strict=True):
        assert float(row[1]) == pytest.approx(item["p50"], rel=1e-3)
        assert float(row[3]) == pytest.approx(item["other_p50"], rel=1e-3)
        assert float(row[5].split()[0]) == pytest.approx(item["ratio"], abs=1e-3)
    assert "0 wrong elements in 4 checked calls" in page


def test_faults_have_a_table_of_their_own(tmp_path):
    run = runs.Run(
        "dead",
        "A rank is killed",
        "--interleave papilio,gloo --ranks 3 -b 4K -e 4K -n 60 --fault crash@2:20",
        "timeline",
    )
    content = measured(tmp_path, run.arguments)
    page = document.page([(run, content)])
    mine, gloo = rows_of(page)
    found = content["results"][0]["faulted"]
    assert mine[0] == "papilio" and gloo[0] == "gloo"
    returned = found["ok"] + found["degraded"]
    assert mine[1] == f"{returned}, {found['degraded']} without a rank"
    assert found["degraded"] > 0 and mine[2] == "0"
    assert int(gloo[2]) > 0
    assert "![A rank is killed](img/benchmarks-dead.png)" in page
    assert os.path.exists(tmp_path / "timeline.png")
