"""The matrix: fault x phase x size x ranks, and the rules by which a product is not a case.

A phase is one of the victim's own in the round that is hit (csrc/engine/test_hook.hpp): it is held
there exactly while the fault is injected.
"""

import dataclasses
import zlib

PHASES = ("before", "contributing", "reducing", "returning")
SIZES = {"4 KiB": 4 << 10, "1 MiB": 1 << 20, "64 MiB": 64 << 20}
RANKS = (2, 4, 8)

# What is injected, in the words of the table.
PROCESS = (
    "SIGKILL",
    "exit",
    "clean leave",
    "SIGSTOP for ever",
    "SIGSTOP 1 s",
    "compute straggler",
    "rank 0 killed",
    "two at once",
    "restart and rejoin",
)
PLACES = ("store killed", "garbage on the port")
SCHEMA = ("wrong numel", "wrong dtype", "wrong fingerprint")
DAMAGE = ("corrupted payload", "corrupted over TCP", "corrupted for good")
DATA = ("NaN", *DAMAGE)
NETWORK = (
    "slow link",
    "stalled link",
    "link down and up",
    "one-way partition",
    "random packet drop",
)
FAULTS = PROCESS + SCHEMA + DATA + PLACES + NETWORK

SMALL = 64 << 10  # up to here a tensor is one chunk with one reducer (core/layout.hpp)


@dataclasses.dataclass(frozen=True)
class Case:
    fault: str
    phase: str
    size: str
    ranks: int

    @property
    def numel(self) -> int:
        return SIZES[self.size] // 4

    @property
    def small(self) -> bool:
        return SIZES[self.size] <= SMALL

    def __str__(self) -> str:
        return f"{self.fault} / {self.phase} / {self.size} / {self.ranks} ranks"


def not_a_case(case: Case) -> str | None:
    """Why there is nothing to test here; None: it is a case."""
    if case.fault == "compute straggler" and case.phase != "before":
        return "a rank computes before it enters; one that stands still inside is SIGSTOP"
    if case.fault in SCHEMA and case.phase != "before":
        return "a wrong model is wrong from the first message on: no phase of the round is special"
    if case.fault == "NaN" and case.phase != "before":
        return "a gradient is what it is before the call: no phase of the round is special"
    if case.fault in DAMAGE and case.phase in ("before", "reducing"):
        return "no payload of the victim is on its way then"
    if case.fault in ("slow link", "random packet drop") and case.small:
        return "so few packets go over the link that none may have to wait or be dropped"
    if case.fault == "two at once" and case.ranks == 2:
        return "of two ranks nobody would be left"
    return None


def all_cases() -> list:
    return [
        Case(fault, phase, size, ranks)
        for fault in FAULTS
        for phase in PHASES
        for size in SIZES
        for ranks in RANKS
    ]


def mix64(x: int) -> int:
    """core/hash.hpp; says which rank reduces a small tensor."""
    mask = (1 << 64) - 1
    x ^= x >> 33
    x = x * 0xFF51AFD7ED558CCD & mask
    x ^= x >> 33
    x = x * 0xC4CEB9FE1A85EC53 & mask
    return x ^ x >> 33


def owner(case: Case, round_: int, start: int) -> int:
    """Which rank is to reduce the element (core/layout.hpp)."""
    if case.small:
        return mix64(round_) % case.ranks
    shard = -(-case.numel // case.ranks)
    return start // (-(-shard // 16) * 16)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Who is hit in which round. Rounds count from 1."""

    round: int
    victims: tuple  # the first one is the one that the phase is about
    phases: tuple  # by victim

    @property
    def hooks(self) -> dict:
        return dict(zip(self.victims, self.phases, strict=True))


WARM_ROUNDS = 2
WARM_BYTES = 256 << 10  # of the first one: every rank hears from every other one


def plan(case: Case) -> Plan:
    n = case.ranks
    chance = zlib.crc32(str(case).encode())  # the same victim in every run, not the same everywhere
    number = WARM_ROUNDS + 1
    victim = 0 if case.fault == "rank 0 killed" else chance % n
    if case.fault == "wrong fingerprint":
        return Plan(1, (victim,), ("before",))
    if case.small:
        # One reducer: it is the victim where it must be, and where its loss says most.
        reduces = case.phase != "contributing"
        while (mix64(number) % n == victim) != reduces:
            number += 1
    victims, phases = (victim,), (case.phase,)
    if case.fault == "two at once":
        second = case.phase
        if case.small and case.phase in ("reducing", "returning"):
            second = "contributing"
        victims, phases = (victim, (victim + 1 + chance // n % (n - 1)) % n), (case.phase, second)
        if case.small and case.phase == "contributing" and mix64(number) % n == victims[1]:
            phases = (case.phase, "before")  # the reducer itself contributes to nobody
    return Plan(number, victims, phases)
