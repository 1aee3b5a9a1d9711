"""Plain records of what happened: reports, peers, blacklist entries, events."""

import dataclasses
import time
import typing


class Chunk(typing.NamedTuple):
    """Elements ``[start, stop)`` and where their value came from.

    ``source`` is ``"reduced"``, ``"fetched"``, ``"redone"`` or ``"local"``; ``contributors`` is a
    sorted tuple of group ranks; ``weight`` is the sum of their weights.
    """

    start: int
    stop: int
    source: str
    contributors: tuple
    weight: float


@dataclasses.dataclass
class Report:
    """Explanation of every element of one collective.

    With C the contributors of a chunk, w their weights, x_i the tensor of rank i and n the group
    size: ``AVG = sum w_i x_i / sum w_i`` over C, ``SUM = n * AVG``, ``PREMUL_SUM(f) = f * SUM``.
    ``source == "local"`` is C = {self}.
    """

    op: str
    seq: int
    view: int
    mode: str
    outcome: str
    numel: int
    nbytes: int
    elapsed: float
    chunks: list
    blamed: dict
    late: tuple
    self_suspect: bool
    reduce_op: str = ""

    def asdict(self) -> dict:
        return dataclasses.asdict(self) | {"chunks": [chunk._asdict() for chunk in self.chunks]}

    def __str__(self) -> str:
        text = (
            f"{self.op} seq {self.seq}: {self.outcome}, {self.nbytes} bytes in "
            f"{self.elapsed * 1e3:.1f} ms"
        )
        if self.blamed:
            blamed = ", ".join(f"rank {rank} ({why})" for rank, why in sorted(self.blamed.items()))
            text += f", without {blamed}"
        local = sum(chunk.stop - chunk.start for chunk in self.chunks if chunk.source == "local")
        if local:
            text += f", {local} of {self.numel} elements local"
        return text


@dataclasses.dataclass
class Peer:
    """One member as this rank sees it. Times in seconds, goodput in bytes/s."""

    rank: int
    state: str
    incarnation: int
    lane: str
    address: str
    rtt: float
    goodput: float
    lag: float
    last_seen: float


@dataclasses.dataclass
class BlacklistEntry:
    """Who is out and why. ``since`` and ``expires`` are ``time.time()`` values; ``expires`` None:
    until it returns with the right fingerprint."""

    rank: int
    incarnation: int
    reason: str
    strikes: int
    since: float
    expires: float | None


@dataclasses.dataclass
class Event:
    """Something that happened, given to ``on_event`` handlers. ``when`` is ``time.time()``."""

    kind: str
    when: float
    group: str
    rank: int
    reason: str
    seq: int
    detail: str


def report_from(raw: dict) -> Report:
    return Report(**raw | {"chunks": [Chunk(*chunk) for chunk in raw["chunks"]]})


def blacklist_entry_from(raw: dict) -> BlacklistEntry:
    now = time.time()
    left = raw["expires_in"]
    return BlacklistEntry(
        rank=raw["rank"],
        incarnation=raw["incarnation"],
        reason=raw["reason"],
        strikes=raw["strikes"],
        since=now - raw["since_ago"],
        expires=None if left is None else now + left,
    )
