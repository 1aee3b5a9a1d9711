"""``python -m papilio.bench``: statistics against independent computations, and whole runs."""

import csv
import io
import itertools
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from papilio.bench import cases, cli, flags, memory, output, patterns, plots, report, stats

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(HERE))


def bench(*arguments, timeout=120):
    """A whole run in processes of its own, its stderr in a file that already holds a line."""
    environment = os.environ | {"PYTHONPATH": REPOSITORY + os.pathsep + HERE}
    with tempfile.TemporaryFile("w+") as errors:
        errors.write("a line before\n")
        errors.flush()
        done = subprocess.run(
            [sys.executable, "-m", "papilio.bench", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            timeout=timeout,
        )
        errors.seek(0)
        done.stderr = errors.read()
    assert done.stderr.startswith("a line before\n"), "somebody truncated the log of the user"
    return done


# Statistics


@pytest.mark.parametrize("count", [1, 2, 7, 99, 100, 101, 1000])
def test_percentiles_are_nearest_rank(count):
    values = np.sort(np.random.default_rng(count).exponential(size=count))
    for tenths in (0, 10, 250, 333, 500, 750, 900, 950, 990, 999, 1000):
        enough = [value for k, value in enumerate(values, 1) if k * 1000 >= tenths * count]
        assert stats.nearest_rank(values, tenths / 10) == enough[0]
    # numpy agrees where its arithmetic is exact.
    for percent in (0, 25, 50, 75, 100):
        want = np.percentile(values, percent, method="inverted_cdf")
        assert stats.nearest_rank(values, percent) == want


def test_summary_matches_numpy_and_hides_tails_without_samples():
    values = np.random.default_rng(5).gamma(2, 100, size=120)
    row = stats.summarise(values, 1 << 20, "all_reduce", 4)
    assert row["avg"] == pytest.approx(values.mean())
    assert row["cv_percent"] == pytest.approx(100 * statistics.stdev(values) / values.mean())
    assert (row["min"], row["max"]) == (values.min(), values.max())
    assert row["algbw"] == pytest.approx((1 << 20) / (values.mean() * 1e-6) / 1e9)
    assert row["busbw"] == pytest.approx(row["algbw"] * 2 * 3 / 4)
    assert row["busbw_p25"] <= row["busbw_p50"] <= row["busbw_p75"]
    assert row["p99"] == np.sort(values)[118] and row["p999"] is None
    assert stats.summarise(values[:99], 4, "all_reduce", 4)["p99"] is None
    assert stats.summarise(np.ones(1000), 4, "all_reduce", 4)["p999"] == 1
    assert stats.summarise(values, 0, "barrier", 4)["busbw"] is None
    assert stats.summarise([3.0], 4, "all_reduce", 4)["cv_percent"] is None


def test_combining_over_ranks():
    table = [[1, 5, 3], [2, 4, 9]]
    assert stats.combine(table, "max").tolist() == [2, 5, 9]
    assert stats.combine(table, "min").tolist() == [1, 4, 3]
    assert stats.combine(table, "avg").tolist() == [1.5, 4.5, 6]
    assert stats.combine(table, "rank0").tolist() == [1, 5, 3]


def _u(a, b):
    return sum((x > y) + (x == y) / 2 for x in a for y in b)


@pytest.mark.parametrize("n1,n2", [(1, 1), (3, 4), (5, 5), (2, 8)])
def test_mann_whitney_is_exact_for_few_samples(n1, n2):
    """Against the enumeration of all splits of the ranks."""
    random = np.random.default_rng(n1 * 10 + n2)
    splits = [set(chosen) for chosen in itertools.combinations(range(n1 + n2), n1)]
    values = [_u(chosen, set(range(n1 + n2)) - chosen) for chosen in splits]
    for _ in range(5):
        order = random.permutation(n1 + n2).astype(float)
        u, p = stats.mann_whitney(order[:n1], order[n1:])
        assert u == _u(order[:n1], order[n1:])
        tail = max(u, n1 * n2 - u)
        want = min(1.0, 2 * sum(value >= tail for value in values) / len(values))
        assert p == pytest.approx(want)


def test_mann_whitney_large_samples_and_ties():
    random = np.random.default_rng(3)
    a, b = random.normal(size=300), random.normal(size=200)
    u, p = stats.mann_whitney(a, b)
    assert u == _u(a, b)
    # Against the distribution of U under random relabelling.
    both = np.concatenate([a, b])
    far = abs(u - 30000)
    extreme = 0
    for _ in range(2000):
        order = random.permutation(500)
        ranks = np.empty(500)
        ranks[np.argsort(both[order])] = np.arange(1, 501)
        extreme += abs(ranks[:300].sum() - 300 * 301 / 2 - 30000) >= far
    assert p == pytest.approx(extreme / 2000, abs=0.05)
    assert stats.mann_whitney(a, a + 1)[1] < 1e-20
    assert stats.mann_whitney(np.ones(30), np.ones(40))[1] == 1.0


def test_ratio_of_medians_covers_the_truth_and_is_repeatable():
    random = np.random.default_rng(8)
    a, b = random.normal(200, 20, size=400), random.normal(100, 10, size=400)
    ratio, low, high = stats.ratio_of_medians(a, b, seed=1)
    assert ratio == np.median(a) / np.median(b)
    assert low < 2.0 < high and high - low < 0.1
    assert stats.ratio_of_medians(a, b, seed=1) == (ratio, low, high)


# Inputs that make every result exact


@pytest.mark.parametrize("op", ["sum", "avg", "max", "min", "prod"])
@pytest.mark.parametrize("kind", ["float", "double", "half", "bfloat16", "int8", "uint8", "int32"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8, 12])
def test_patterns_are_exact_in_every_type(kind, op, ranks):
    if op == "avg" and "int" in kind:
        return
    pattern = patterns.Pattern(ranks, patterns.BITS[kind], op)
    index = np.arange(0, 3000, dtype=np.uint32)
    limit = 2.0 ** patterns.BITS[kind]
    total = pattern.reduced(index) * (ranks if op == "avg" else 1)
    if op == "prod":  # powers of two: the exponent is the only limit
        assert set(np.log2(total) % 1) == {0.0} and total.max() <= limit
    else:
        assert (total == np.round(total)).all() and total.max() < limit
        assert (pattern.reduced(index) == np.round(pattern.reduced(index))).all()
    typed = cases._tensor(pattern.reduced, 3000, cases.DTYPES[kind])
    assert (typed.double().numpy() == pattern.reduced(index)).all()


def test_patterns_tell_neighbouring_chunks_apart():
    pattern = patterns.Pattern(4, 24)
    index = np.arange(0, 1 << 16, dtype=np.uint32)
    here = pattern.reduced(index)
    for offset in (1, 256, 4096, 65536, 1 << 20):
        assert (here != pattern.reduced(index + np.uint32(offset))).mean() > 0.9


@pytest.mark.parametrize("rescaled", [False, True])
def test_contributors_are_recovered_from_sums(rescaled):
    pattern = patterns.Pattern(4, 24)
    index = np.array([12345], dtype=np.uint32)
    for size in (1, 2, 3, 4):
        for members in itertools.combinations(range(4), size):
            value = pattern.reduced(index, members)[0] * (4 / size if rescaled else 1)
            mask = "".join(str(int(rank in members)) for rank in range(4))
            assert pattern.recover(float(value), 12345, rescaled) == mask
    assert pattern.recover(float("nan"), 12345, rescaled) == "?"


def test_case_notices_missing_stale_and_misplaced_data():
    spec = {"count": 4096, "type": "float", "op": "sum", "root": 0, "unalign": 1, "device": "cpu"}
    case = cases.Case(spec | {"collective": "all_reduce"}, rank=1, ranks=4)
    right = [case.parts[0][case.shift(k) :][:4096].clone() for k in range(3)]
    case.prepare(1)
    assert case.check(1)[0] > 4000, "the input itself is no result"
    case.output.copy_(right[1])
    assert case.check(1) == (0, None)
    case.output.copy_(right[2])
    assert case.check(1)[0] > 3500, "the result of another call"
    case.output.copy_(right[1])
    case.output[1024:2048], case.output[2048:3072] = right[1][2048:3072], right[1][1024:2048]
    assert case.check(1)[0] > 1500, "two chunks swapped"


# Command line


@pytest.mark.parametrize(
    "arguments,named",
    [
        (["-t", "2"], "-t"),
        (["-g", "1"], "-g"),
        (["-m", "4"], "-m"),
        (["-Z"], "-Z"),
        (["-b", "5Q"], "5Q"),
        (["-b", "2M", "-e", "1M"], "-b"),
        (["-f", "2", "-i", "1K"], "-i"),
        (["-n", "0"], "-n"),
        (["-n", "5", "-K", "5"], "-K"),
        (["-o", "xor"], "xor"),
        (["-d", "float8"], "float8"),
        (["-o", "avg", "-d", "int32"], "avg"),
        (["--collective", "scan"], "scan"),
        (["--ranks", "0"], "--ranks"),
        (["--ranks", "2", "-r", "2"], "-r"),
        (["--interleave", "papilio"], "--interleave"),
        (["--interleave", "gloo,gloo"], "gloo,gloo"),
        (["--backend", "gloo", "--deadline", "1"], "patience"),
        (["--deadline", "-1"], "patience"),
        (["--gate", "1"], "--gate"),
        (["--cpu-list", "9999"], "9999"),
        (["--context", "novalue"], "novalue"),
        (["--device", "xla"], "xla"),
        (["--block", "5"], "--block"),
        (["--mode", "streaming", "--block", "5", "--fault", "crash@1:2"], "--block"),
    ],
)
def test_bad_arguments_are_usage_errors_that_name_them(arguments, named):
    with pytest.raises(flags.UsageError, match=named.replace("-", "[-]")):
        cli.parse(arguments)


def test_defaults_and_sizes(monkeypatch):
    options = cli.parse(["--interleave", "papilio,gloo", "--seed", "7"])
    assert options.sizes == [1 << power for power in range(10, 27)]
    assert (options.ranks, options.combine, options.mode) == (4, "max", "isolated")
    assert cli.parse(["-b", "1K", "-e", "4K", "-i", "1K"]).sizes == [1024, 2048, 3072, 4096]
    assert cli.parse(["-b", "0", "-e", "2"]).sizes == [0, 1, 2]
    assert flags.parse_size("64KB") == 65536 and flags.parse_size("1.5M") == 1572864
    assert cases.counts("all_gather", 1000, 4, 3) == (249, 996)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(flags.UsageError, match="torchrun"):
        cli.parse([])


def test_missing_matplotlib_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    content = {
        "results": [{"size": size, "stats": {"p50": 1.0}} for size in (1, 2)],
        "comparisons": [],
    }
    with pytest.raises(plots.Missing, match="papilio.bench"):
        plots.draw(content, "/nonexistent")


def test_shared_memory_is_charged_to_whom_it_belongs():
    meter = memory.Meter()
    size = 32 << 20
    with mmap.mmap(-1, size) as shared:  # anonymous and shared
        meter.start()
        for at in range(0, size, 4096):
            shared[at] = 1
        meter.stop("keeps")
        assert meter.growth["keeps"].held >= size
        meter.start()
        shared.madvise(mmap.MADV_DONTNEED)  # while the other one runs
        meter.stop("other")
    assert meter.growth["keeps"].held < size / 4 <= meter.growth["keeps"].peak
    assert abs(meter.growth["other"].held) < size / 4


# Whole runs


def _schema(content, ranks, iterations):
    assert content["schema_version"] == output.SCHEMA_VERSION
    assert content["verdict"] == "ok" and content["summary"]["wrong"] == 0
    assert content["args"]["context"] == {"where": "test"}
    assert {"tool", "git", "start", "end", "env", "host", "config", "libraries"} <= set(content)
    assert not any("SECRET" in name for name in content["env"])
    for row in content["results"]:
        assert len(row["samples_us"]) == ranks
        slowest = [max(column) for column in zip(*row["samples_us"], strict=True)]
        assert len(slowest) == iterations == row["iterations"]
        assert row["stats"]["p50"] == statistics.median_low(slowest)
        assert row["stats"]["avg"] == pytest.approx(statistics.mean(slowest))
        assert row["verified"] == 2 and row["wrong"] == 0 and not row["masks"]
        assert min(slowest) > 0
        assert all(memory["peak"] >= memory["held"] for memory in row["memory"])
    for item in content["comparisons"]:
        assert item["ratio_low"] <= item["ratio"] <= item["ratio_high"]
        assert 0 <= item["p_value"] <= 1


def test_two_backends_side_by_side(tmp_path):
    done = bench(
        *("--interleave", "papilio,gloo", "--ranks", "2", "-b", "1K", "-e", "256K", "-f", "256"),
        *("-n", "12", "-w", "3", "-c", "2", "--seed", "4", "--context", "where=test"),
        *("--output-dir", str(tmp_path)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 120 and done.stdout.isascii()
    rows = [line.split() for line in done.stdout.splitlines() if not line.startswith("#")]
    table, comparison = rows[:4], rows[4:]
    assert [row[0] for row in table] == ["1024", "1024", "262144", "262144"]
    assert [row[4] for row in table] == ["papilio", "gloo"] * 2
    assert [row[-1] for row in table] == ["0"] * 4
    assert [row[:2] for row in comparison] == [["1024", "gloo"], ["262144", "gloo"]]
    assert "0.25 MiB: papilio" in done.stdout and "seed 4" in done.stdout.replace("\n#    ", "")

    content = json.loads((tmp_path / "bench.json").read_text())
    _schema(content, ranks=2, iterations=12)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "bench.csv").read_text())))
    assert [(line["size"], line["backend"]) for line in lines] == [
        (str(row["size"]), row["backend"]) for row in content["results"]
    ]
    for line, row in zip(lines, content["results"], strict=True):
        assert float(line["p50"]) == pytest.approx(row["stats"]["p50"], rel=1e-5)
        assert line["p99"] == ""
    for name in ("busbw", "latency", "ratio"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()
        assert len((tmp_path / f"{name}.csv").read_text().splitlines()) > 2


def test_turns_of_several_calls(tmp_path):
    done = bench(
        *("--interleave", "papilio,gloo", "--ranks", "2", "-b", "4K", "-e", "4K"),
        *("--mode", "streaming", "--block", "5", "-n", "8", "-w", "3", "-c", "2"),
        *("--context", "where=test", "--json", str(tmp_path / "bench.json")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "bench.json").read_text())
    # Two turns of each backend; the first call of a turn is made and not counted.
    _schema(content, ranks=2, iterations=10)
    made = {row["backend"]: row["rounds"] for row in content["results"]}
    assert [rounds["complete"] for rounds in made["papilio"]] == [12, 12]


_TWO = ("--import", "bench_backends", "--ranks", "2", "-b", "4K", "-e", "4K", "-n", "3", "-w", "2")


def test_exit_status_of_wrong_stuck_and_missing():
    """Real groups with a known fault each; all at once, they mostly wait."""
    runs = {
        "wrong": (*_TWO, "--interleave", "honest,one-off,stale,without1", "-c", "2"),
        "stuck": (*_TWO, "--backend", "stuck", "-T", "4"),
        "dying": (*_TWO, "--backend", "dying"),
        "absent": ("--backend", "nosuch", "--ranks", "1", "-b", "1K", "-e", "1K"),
    }
    with ThreadPoolExecutor(4) as pool:
        done = dict(zip(runs, pool.map(lambda a: bench(*a, "-J", "-"), runs.values()), strict=True))
    status = {name: run.returncode for name, run in done.items()}
    text = {name: run.stderr for name, run in done.items()}
    assert status == {"wrong": 1, "stuck": 3, "dying": 3, "absent": 2}, text

    found = json.loads(done["wrong"].stdout)
    wrong = {row["backend"]: row for row in found["results"]}
    assert wrong["honest"]["wrong"] == 0
    assert wrong["one-off"]["wrong"] == 2, "one element in each of two verified calls"
    assert wrong["stale"]["wrong"] > 2 * 1024
    assert list(wrong["without1"]["masks"]) == ["10"]
    assert found["summary"]["exit_status"] == 1 and found["verdict"].startswith("WRONG")
    assert "ranks [1] did not answer" in json.loads(done["stuck"].stdout)["verdict"]
    assert "ended with status 7" in json.loads(done["dying"].stdout)["verdict"]


def test_verdict_needs_interval_and_test():
    item = {"p_value": 0.001, "ratio_low": 0.8, "ratio_high": 0.9}
    assert report.verdict_of(item) == "faster"
    assert report.verdict_of(item | {"ratio_low": 1.1, "ratio_high": 1.2}) == "slower"
    assert report.verdict_of(item | {"ratio_high": 1.1}) == "no clear difference"
    assert report.verdict_of(item | {"p_value": 0.2}) == "no clear difference"


def test_tensors_on_a_device():
    done = bench(
        *("--import", "fake_device", "--device", "fake", "--ranks", "3"),
        *("-b", "4K", "-e", "64K", "-f", "16", "-n", "5", "-c", "5", "-J", "-"),
    )
    assert done.returncode == 0, done.stderr
    assert [row["wrong"] for row in json.loads(done.stdout)["results"]] == [0] * 2


def test_cuda_where_torch_has_no_gpu_is_said():
    done = bench("--device", "cuda", "--ranks", "2", "-b", "4K", "-e", "4K", "-n", "5")
    assert done.returncode == (0 if torch.cuda.is_available() else 2), done.stderr
    assert torch.cuda.is_available() or "torch can use no GPU" in done.stdout + done.stderr
