"""Collective x dtype x reduce op x size x ranks against an independent oracle (matrix.py)."""

import itertools

import matrix
import pytest
from cluster import SOAK, Cluster

RUN = """
import matrix
result = matrix.run(rank, n, {dtypes}, {sizes}, {every}, {ops})
"""


def count(dtypes, sizes, every, ops) -> dict:
    out: dict = {}
    for collective, *_ in matrix.cases(dtypes, sizes, every, ops):
        out[collective.__name__] = out.get(collective.__name__, 0) + 1
    return out


def check(ranks, dtypes, sizes, ops=matrix.OPS) -> None:
    every = SOAK or ranks.n == 2  # in the short form variants take turns
    named = "[" + ", ".join(str(dtype) for dtype in dtypes) + "]"
    text = RUN.format(dtypes=named, sizes=sizes, every=every, ops=ops)
    answers = ranks.run(text, timeout=3000 if SOAK else 170)
    assert [answer["wrong"] for answer in answers] == [[]] * ranks.n
    total = count(dtypes, sizes, every, ops)
    for answer in answers:
        assert answer["done"] == total, "a case did not run"
    print(f"{ranks.n} ranks, sizes {sizes}: {sum(total.values())} cases agree: {total}")


@pytest.mark.timeout(3600 if SOAK else 180)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_matrix(n):
    with Cluster(n) as ranks:
        check(ranks, matrix.DTYPES, matrix.SMALL)
        for times in zip(
            *ranks.run("import matrix\nresult = matrix.barriers(rank, n, 20)"), strict=True
        ):
            assert min(returned for _, returned in times) >= max(entered for entered, _ in times)


# Every way of a large one through buffers, blocks and credits; in the long form all of them.
LARGE = matrix.DTYPES if SOAK else [matrix.torch.float32, matrix.torch.int8]


@pytest.mark.timeout(3600 if SOAK else 180)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8] if SOAK else [3])
def test_matrix_of_large_ones(n):
    with Cluster(n) as ranks:
        check(ranks, LARGE, [matrix.LARGE], matrix.OPS if SOAK else ["SUM", "MAX"])


@pytest.mark.timeout(60)
def test_what_is_not_defined_is_refused():
    every = itertools.product(matrix.OPS, matrix.DTYPES, matrix.REDUCING)
    undefined = sum(not matrix.allowed(*combination) for combination in every)
    with Cluster(2) as ranks:
        for answer in ranks.run("import matrix\nresult = matrix.refusals(rank, n)"):
            assert answer["wrong"] == []
            assert answer["refused"] == undefined
            print(f"{answer['refused']} combinations are refused")
