"""The state of a new member: taken apart, fetched from donors of which some die, rebuilt."""

import threading

import pytest
import torch

from papilio import _transfer
from papilio._errors import PeerFailed
from papilio._state import Snapshot

TREE = {
    "weights": torch.arange(3000, dtype=torch.float64).reshape(30, 100),
    "half": torch.arange(77).to(torch.bfloat16),
    "scalar": torch.tensor(5),
    "empty": torch.zeros(0, 4),
    "groups": [{"lr": 0.1, "betas": (0.9, 0.99), "name": None}],
    3: True,
}


class Done:
    def wait(self):
        pass


class Donors:
    """Stands for the backend of the receiver: ranks that answer from one state, up to a number of
    pieces each, and are dead from then on."""

    def __init__(self, tree, gives: dict, last=None):
        """``last`` gives no piece before the others are dead."""
        self.last = last
        self.deaths = threading.Semaphore(0)
        self.snapshot = Snapshot(tree)
        self.flat = self.snapshot.flat()
        self.gives = dict(gives)  # donor -> pieces until it dies
        self.given: dict = dict.fromkeys(gives, 0)
        self.asked: dict = {}  # donor -> answers it owes, oldest first

    def _send_state(self, request, donor, _channel):
        kind, start, stop = request.tolist()
        if kind == _transfer._SKELETON:
            skeleton = self.snapshot.skeleton()
            self.asked[donor] = [torch.tensor([skeleton.numel()]), skeleton]
        elif kind == _transfer._RANGE:
            if donor == self.last:
                for _ in range(len(self.gives) - 1):
                    assert self.deaths.acquire(timeout=20)
                self.last = None
            self.asked[donor] = [self.flat[start:stop]]
        elif self.gives[donor] <= 0:
            raise PeerFailed(f"rank {donor} is gone")
        return Done()

    def _recv_state(self, tensor, donor, _channel):
        answer = self.asked[donor].pop(0)
        if answer.dtype == torch.uint8 and answer.numel() <= _transfer._PIECE:
            if self.gives[donor] <= 0:
                tensor.fill_(0xAA)  # torn
                self.deaths.release()
                raise PeerFailed(f"rank {donor} is gone")
            self.gives[donor] -= 1
            self.given[donor] += 1
        tensor.copy_(answer)
        return Done()


def equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and all(map(equal, one, other))
    return one == other


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(_transfer, "_PIECE", 1000)


def rebuilt(donors, ranks) -> bool:
    return equal(_transfer.receive(donors, ranks).tree(), TREE)


def test_several_donors_give_one_state():
    donors = Donors(TREE, {0: 99, 2: 99, 3: 99})
    assert rebuilt(donors, [0, 2, 3])


def test_what_dying_donors_owed_comes_from_the_others():
    donors = Donors(TREE, {0: 3, 2: 99, 3: 0}, last=2)
    assert rebuilt(donors, [0, 2, 3])
    # Both deaths came in the middle, and the rest from the one that was left.
    assert donors.last is None and donors.gives[0] == 0 and donors.given[2] > 10


def test_a_donor_that_dies_before_it_says_anything():
    assert rebuilt(Donors(TREE, {0: 0, 1: 99}), [0, 1])


def test_without_donors_there_is_an_error_and_no_torn_state():
    with pytest.raises(PeerFailed, match="is gone"):
        rebuilt(Donors(TREE, {0: 4, 1: 2}), [0, 1])


def test_equal_replicas_have_equal_digests_whatever_the_order_of_keys():
    backwards = dict(reversed(TREE.items()))
    assert Snapshot(TREE).digest() == Snapshot(backwards).digest()
    assert torch.equal(Snapshot(TREE).flat(), Snapshot(backwards).flat())
    changed = TREE | {"half": TREE["half"] + 1}
    assert Snapshot(TREE).digest() != Snapshot(changed).digest()
    assert Snapshot(TREE).digest() != Snapshot(TREE | {3: False}).digest()


def test_a_donor_that_dies_after_its_last_piece_has_given_all():
    counted = Donors(TREE, {0: 999})
    assert rebuilt(counted, [0])
    assert rebuilt(Donors(TREE, {0: counted.given[0]}), [0])
