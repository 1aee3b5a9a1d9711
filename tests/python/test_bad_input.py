"""Bad input gets a clear error at the right rank; never a crash, a hang or a changed result."""

import pytest
from cluster import SOAK, Cluster

BACKEND = "dist.group.WORLD._get_backend(torch.device('cpu'))"

# Call, the error's class, and what its text must name. Nothing of it may cause traffic.
REFUSED = [
    ("dist.all_reduce(torch.ones(4, dtype=torch.float8_e4m3fn))", "TypeError", "Float8_e4m3fn"),
    ("dist.all_reduce(torch.ones(4, dtype=torch.uint16))", "TypeError", "UInt16"),
    ("dist.all_reduce(torch.ones(4, dtype=torch.int32), dist.ReduceOp.AVG)", "ValueError", "AVG"),
    ("dist.all_reduce(torch.ones(4), dist.ReduceOp.BXOR)", "ValueError", "BXOR"),
    ("dist.all_reduce(torch.ones(4, dtype=torch.cfloat), dist.ReduceOp.MAX)", None, "MAX"),
    ("dist.all_reduce(torch.ones(4, 4).t()[1:3].t())", "ValueError", "contiguous"),
    ("dist.broadcast(torch.ones(8)[::2], 0)", "ValueError", "contiguous"),
    ("dist.all_reduce(torch.ones(4).to_sparse(), dist.ReduceOp.MAX)", "ValueError", "SUM only"),
    ("dist.broadcast(torch.ones(4).to_sparse(), 0)", None, ""),
    # torch itself answers for meta tensors in dist.all_reduce: ask the backend.
    (BACKEND + ".allreduce([torch.ones(4, device='meta')])", "ValueError", "meta"),
    ("dist.broadcast(torch.ones(4), 17)", "ValueError", "17"),
    ("dist.all_gather([torch.ones(4)], torch.ones(4))", "ValueError", "1"),
    ("dist.all_gather([torch.ones(5), torch.ones(4)], torch.ones(4))", None, "5"),
    ("dist.all_gather([torch.ones(4), torch.ones(4).double()], torch.ones(4))", None, "float64"),
    ("dist.all_gather_into_tensor(torch.ones(9), torch.ones(4))", "ValueError", "9"),
    ("dist.reduce_scatter_tensor(torch.ones(4), torch.ones(9))", "ValueError", "9"),
    ("dist.all_to_all_single(torch.ones(4), torch.ones(4), [1, 1], [2, 2])", "ValueError", "4"),
    ("dist.all_to_all_single(torch.ones(4), torch.ones(4), [2, 2], [5, -1])", "ValueError", ""),
    ("dist.all_to_all([torch.ones(4)], [torch.ones(4)])", "ValueError", ""),
    ("dist.all_reduce('text')", "TypeError", ""),
    ("dist.gather(torch.ones(4), [torch.ones(4)] if rank == 0 else None)", None, ""),
    ("papilio.report('text')", "TypeError", ""),
    ("papilio.reports(last=-1)", "ValueError", "-1"),
    ("dist.new_group(pg_options=3)", "TypeError", "papilio.Options"),
]


@pytest.fixture(scope="module")
def ranks():
    with Cluster(2) as cluster:
        yield cluster


@pytest.mark.timeout(60)
@pytest.mark.parametrize("source,kind,word", REFUSED)
def test_refused_before_any_traffic(ranks, source, kind, word):
    alone = source.startswith("dist.gather")  # only the root sees this mistake
    answer = ranks[0].call("collective", source=source, timeout=20)
    assert not answer["ok"], source
    if kind is None:
        assert answer["error"] in ("ValueError", "TypeError", "RuntimeError", "NotImplementedError")
    else:
        assert answer["error"] == kind, answer
    assert word in answer["text"], answer
    if not alone:
        ranks[1].call("collective", source=source, timeout=20)
    # Both ranks are still at the same place, and the group works.
    for answer in ranks.all("allreduce", numel=1000, salt=1, timeout=20):
        assert answer["ok"] and answer["wrong"] == 0


def init_alone(environment: dict, **options) -> dict:
    with Cluster(1, init=False, environment=environment) as ranks:
        return ranks[0].call("init", options=options, timeout=30)


INIT = [
    ({"PAPILIO_PATIENCE": "-3"}, "ValueError", "PAPILIO_PATIENCE='-3'"),
    ({"PAPILIO_LOG": "loud"}, "ValueError", "PAPILIO_LOG='loud'"),
    ({"PAPILIO_INTERFACE": "nonsense0"}, None, "nonsense0"),
    ({"PAPILIO_INTERFACE": "203.0.113.77"}, None, "203.0.113.77"),
    ({"PAPILIO_SECRET_FILE": "/nonexistent/secret"}, None, "/nonexistent/secret"),
    ({"PAPILIO_EVENTS_FILE": "/nonexistent/events"}, "ValueError", "/nonexistent/events"),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("environment,kind,word", INIT)
def test_bad_environment(environment, kind, word):
    answer = init_alone(environment)
    assert not answer["ok"] and word in answer["text"], answer
    if kind:
        assert answer["error"] == kind, answer
    else:
        assert answer["error"] in ("ValueError", "RuntimeError", "DistBackendError"), answer


@pytest.mark.timeout(60)
def test_unknown_option_and_bad_option():
    with Cluster(1, init=False) as ranks:
        answer = ranks[0].call("init", options={"patients": 1})
        assert answer["error"] == "TypeError" and "patients" in answer["text"]
        answer = ranks[0].call("init", options={"patience": 0})
        assert answer["error"] == "ValueError" and "Options.patience=0" in answer["text"]


@pytest.mark.timeout(60)
def test_unknown_variable_is_named_on_stderr():
    with Cluster(1, environment={"PAPILIO_PATIENSE": "3"}) as ranks:
        ranks.run("dist.barrier()")
        assert "did you mean PAPILIO_PATIENCE?" in "".join(ranks[0].errors)


@pytest.mark.timeout(60)
def test_missing_rank_is_named():
    """Only two of three come: both say who is missing."""
    source = """
store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=False)
dist.init_process_group("papilio", store=store, rank=rank, world_size=3,
                        timeout=timedelta(seconds=3))
"""
    with Cluster(2, init=False) as ranks:
        for answer in ranks.all("collective", source=source, timeout=30):
            assert not answer["ok"] and "rank 2" in answer["text"], answer


@pytest.mark.timeout(60)
def test_different_world_sizes():
    source = """
store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=False)
dist.init_process_group("papilio", store=store, rank=rank, world_size={size},
                        timeout=timedelta(seconds=4))
"""
    with Cluster(2, init=False) as ranks:
        ranks[0].send("collective", source=source.format(size=2))
        ranks[1].send("collective", source=source.format(size=3))
        texts = []
        for rank in ranks:
            answer = rank.receive(timeout=30)
            assert not answer["ok"], answer
            texts.append(answer["text"])
        assert "rank 1 was started with world size 3, this rank 0 with 2" in texts[0], texts
        assert "rank 2" in texts[1] or "world size" in texts[1], texts


@pytest.mark.timeout(60)
def test_missing_store():
    """Nobody listens at MASTER_PORT: torch's own error, in bounded time, and the process lives."""
    with Cluster(1, init=False, environment={"MASTER_PORT": "1"}) as ranks:
        answer = ranks[0].call("collective", source=MISSING, timeout=40)
        assert answer["ok"] and answer["result"][0] < 20, answer


MISSING = """
begin = time.monotonic()
try:
    store = dist.TCPStore("127.0.0.1", 1, is_master=False, timeout=timedelta(seconds=2))
    dist.init_process_group("papilio", store=store, rank=0, world_size=2)
    raise SystemError("it started without a store")
except dist.DistError as error:
    result = [time.monotonic() - begin, str(error)]
"""


@pytest.mark.timeout(60)
def test_store_that_dies_during_the_meeting():
    source = """
store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=False)
print('{"connected": true}', flush=True)
dist.init_process_group("papilio", store=store, rank=0, world_size=2,
                        timeout=timedelta(seconds=3))
"""
    with Cluster(1, init=False) as host, Cluster(1, init=False) as ranks:
        port = host[0].run(
            "import builtins\n"
            "store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)\n"
            "builtins.store = store\n"
            "result = builtins.store.port"
        )
        ranks[0].send(
            "collective", source=source.replace('int(os.environ["MASTER_PORT"])', str(port))
        )
        assert ranks[0].receive()["connected"]
        host[0].kill()
        answer = ranks[0].receive(timeout=30)
        assert not answer["ok"], answer
        assert answer["error"] in ("DistBackendError", "DistNetworkError", "DistStoreError"), answer


@pytest.mark.timeout(60)
def test_port_in_use_is_torchs_error():
    """The store's port is taken by a stranger: rank 0 is told so."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {
            "MASTER_PORT": str(taken.getsockname()[1]),
            "TORCHELASTIC_USE_AGENT_STORE": "False",
        }
        with Cluster(1, init=False, environment=environment) as ranks:
            answer = ranks[0].call("init", timeout=30)
            assert not answer["ok"] and "in use" in answer["text"].lower(), answer


@pytest.mark.timeout(90)
@pytest.mark.parametrize("limit", [20, 26, 34] if SOAK else [26])
def test_too_few_descriptors(limit):
    """The limit is reached at some point of the start: a clear error on that rank, no crash."""
    with Cluster(3, init=False) as ranks:
        ranks[1].run(
            f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))"
        )
        for rank in ranks:
            rank.send("init", timeout=8.0)
        answers = [rank.receive(timeout=40) for rank in ranks]
        if all(answer["ok"] for answer in answers):  # it was just enough
            for answer in ranks.all("allreduce", numel=1000, salt=1):
                assert answer["ok"] and answer["wrong"] == 0
            return
        assert not answers[1]["ok"], answers
        text = answers[1]["text"].lower()
        assert "descriptor" in text or "open files" in text or "ulimit" in text, answers[1]
