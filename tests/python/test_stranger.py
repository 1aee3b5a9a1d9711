"""Strangers on the control port while a group works: counted and dropped, results unchanged."""

import contextlib
import os
import socket
import struct
import time

import pytest
from cluster import Cluster, wait_until

ROUNDS = 200


def addresses(ranks) -> list:
    """Listening addresses of all ranks, as rank 0 and 1 know them."""
    known = ranks.run("result = [p.address for p in papilio.peers()]", ranks=[0, 1])
    out = known[0]
    out[0] = known[1][0]
    return [(host, int(port)) for host, port in (text.rsplit(":", 1) for text in out)]


def greeting(address) -> bytes:
    """What a listener says first, read from it: a frame of u32 length, u8 kind, body."""
    with socket.create_connection(address, timeout=5) as connection:
        return connection.recv(4096)


def strangers(address) -> list:
    """One of every kind; the sockets stay open until the caller closes them."""
    theirs = greeting(address)
    length, kind = struct.unpack_from("<IB", theirs)
    half = theirs[: 5 + length // 2]
    forged = struct.pack("<IB", 64, kind + 1) + os.urandom(64)  # a hello without the secret
    messages = [
        os.urandom(4096),
        b"GET / HTTP/1.1\r\nHost: papilio\r\n\r\n",
        b"",
        struct.pack("<IB", 0xFFFFFFFF, 3),
        half,
        theirs + forged,
        theirs + struct.pack("<IB", 8, 3) + b"8 bytes.",  # data before the handshake
        b"\0" * 100000,
    ]
    connections = []
    for message in messages:
        connection = socket.create_connection(address, timeout=5)
        connection.setblocking(True)
        with contextlib.suppress(ConnectionError, TimeoutError):  # hung up on already
            connection.sendall(message)
        connections.append(connection)
    return connections


@pytest.mark.timeout(120)
def test_strangers_are_counted_and_change_nothing():
    with Cluster(3) as ranks:
        places = addresses(ranks)
        sizes = [1000 + 37 * k for k in range(ROUNDS)]
        before = ranks.run("result = sum(papilio.stats()['rejected'].values())")
        for rank in ranks:
            rank.send("many", sizes=sizes, salt=5)
        connections = []
        while not all(rank.answered() for rank in ranks) and len(connections) < 400:
            for place in places:
                connections += strangers(place)
        answers = [rank.receive(timeout=60) for rank in ranks]
        for answer in answers:
            assert answer["ok"], answer
            assert answer["outcomes"] == {"complete": ROUNDS} and answer["wrong"] == 0
        assert len({answer["digest"] for answer in answers}) == 1
        for connection in connections:
            connection.close()
        wait_until(
            lambda: all(
                after > earlier
                for after, earlier in zip(
                    ranks.run("result = sum(papilio.stats()['rejected'].values())"),
                    before,
                    strict=False,
                )
            ),
            what="counted strangers",
        )
        assert ranks.run("result = [p.state for p in papilio.peers()].count('live')") == [2] * 3
        for rank in ranks:
            assert [e for e in rank.call("events")["events"]] == []


@pytest.mark.timeout(120)
def test_silent_strangers_are_thrown_out():
    """Connections that say nothing hold no descriptor for long, and the group still accepts."""
    with Cluster(2) as ranks:
        place = addresses(ranks)[0]
        silent = [socket.create_connection(place, timeout=5) for _ in range(100)]
        source = "g = dist.new_group([0, 1]); t = torch.ones(100); dist.all_reduce(t, group=g)\n"
        assert ranks.run(source + "result = float(t[0])") == [2.0, 2.0]
        deadline = time.monotonic() + 30
        for connection in silent:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                while connection.recv(4096):
                    pass  # its greeting, then the end
            except ConnectionError:
                pass
            connection.close()
        assert (
            ranks.run("t = torch.ones(100); dist.all_reduce(t); result = float(t[0])") == [2.0] * 2
        )


@pytest.mark.timeout(60)
def test_wrong_secret_is_named_on_both_sides():
    secrets = [{"PAPILIO_SECRET": "right"}, {"PAPILIO_SECRET": "wrong"}]
    with Cluster(2, init=False, environments=secrets) as ranks:
        for rank in ranks:
            rank.send("init", timeout=6.0)
        answers = [rank.receive(timeout=40) for rank in ranks]
        assert any("secret" in answer.get("text", "") for answer in answers), answers
        for answer in answers:
            assert not answer["ok"] and answer["error"] == "DistBackendError", answers


@pytest.mark.timeout(60)
def test_job_secret_from_a_file(tmp_path):
    path = tmp_path / "secret"
    path.write_text("a long and good secret\n")
    with Cluster(2, environment={"PAPILIO_SECRET_FILE": str(path)}) as ranks:
        for answer in ranks.all("allreduce", numel=1000, salt=1):
            assert answer["ok"] and answer["wrong"] == 0
        for rank in ranks:
            assert "a long and good secret" not in "".join(rank.errors)
