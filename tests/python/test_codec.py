"""Options.codec on real ranks: the same bits on all of them, errors within bounds, values exact
where the codec is, through a SIGKILL too, and trainings that end where raw ones do."""

import coded
import pytest
from cluster import Cluster, RankDied

CODECS = ("raw", "bf16", "fp16", "int8")
COMPRESSED = CODECS[1:]


@pytest.mark.usefixtures("lane")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("n", [2, 4])
def test_replicas_are_equal_and_errors_bounded(n, codec):
    with Cluster(n, codec=codec) as ranks:
        for numel in (10, 1000, 70_001, 500_003):
            answers = ranks.run(f"import coded; result = coded.error({numel})")
            assert {a["outcome"] for a in answers} == {"complete"}
            assert len({a["crc"] for a in answers}) == 1, (numel, answers)
            bound = coded.BOUND["raw" if numel < 256 else codec]
            assert answers[0]["error"] <= bound, (numel, answers[0])
            # The codec was really used.
            if codec != "raw" and numel >= 1000:
                assert answers[0]["error"] > coded.BOUND["raw"] * 10


@pytest.mark.timeout(120)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_types(dtype):
    with Cluster(2, codec="int8") as ranks:
        answers = ranks.run(f"import coded; result = coded.error(70_001, {dtype!r})")
        assert len({a["crc"] for a in answers}) == 1
        rounding = {"float64": 0, "float16": 2**-11, "bfloat16": 2**-8}[dtype]
        bound = 1e-12 if dtype == "float64" else coded.BOUND["int8"] + 2 * rounding
        assert answers[0]["error"] <= bound


@pytest.mark.usefixtures("lane")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("codec", CODECS)
def test_exact_through_a_kill(codec):
    count, victim = 40, 2
    with Cluster(4, codec=codec) as ranks:
        for rank in ranks:
            rank.send("collective", source=f"import coded; result = coded.rounds({count}, 200_003)")
        while ranks[victim].receive() != {"begin": 13}:
            pass
        ranks[victim].kill()
        with pytest.raises(RankDied):
            while True:
                assert "ok" not in ranks[victim].receive(), "it died too late"
        for rank in ranks:
            if rank.rank == victim:
                continue
            answer = {"begin": 0}
            while "begin" in answer:
                answer = rank.receive()
            assert answer["ok"], answer
            result = answer["result"]
            assert result["wrong"] == 0, (rank.rank, result)
            assert result["outcomes"]["complete"] >= 10
            assert result["outcomes"]["degraded"] >= 10


@pytest.mark.timeout(60)
def test_different_codecs_are_a_schema_mismatch():
    with Cluster(2, environments=[{"PAPILIO_CODEC": "int8"}, {"PAPILIO_CODEC": "bf16"}]) as ranks:
        for rank, answer in enumerate(ranks.all("allreduce", numel=1000, salt=1)):
            assert answer["error"] == "SchemaMismatch", answer
            mine, theirs = ("int8", "bf16") if rank == 0 else ("bf16", "int8")
            assert f"codec={mine}" in answer["mine"] and f"codec={theirs}" in answer["theirs"]
            assert (
                "set the same codec on all ranks (Options.codec, PAPILIO_CODEC)" in answer["text"]
            )
    with Cluster(2, codec="fp16") as ranks:  # strict collectives do not care
        assert ranks.run(
            "tensor = torch.full((1000,), 0.1); dist.broadcast(tensor, 0); "
            "result = bool((tensor == torch.tensor(0.1)).all())"
        ) == [True, True]


@pytest.mark.timeout(240)
def test_trainings_end_where_raw_ones_do(capsys):
    losses, weights = {}, set()
    for codec in CODECS:
        with Cluster(2, codec=codec) as ranks:
            answers = ranks.run("import coded; result = coded.training(400)", timeout=120)
        assert answers[0]["crc"] == answers[1]["crc"], "replicas differ"
        assert answers[0]["last"] < answers[0]["first"] / 5, "it did not train"
        losses[codec] = answers[0]["last"]
        weights.add(answers[0]["crc"])
    assert len(weights) == len(CODECS), "a codec that changes nothing was not used"
    with capsys.disabled():
        print("  final loss: " + ", ".join(f"{codec} {loss:.9f}" for codec, loss in losses.items()))
    for codec in COMPRESSED:
        assert abs(losses[codec] - losses["raw"]) <= 0.01 * losses["raw"], losses
