"""Moves a training state from donors to a member that lacks it, beside the training.

The receiver asks (REQUEST), each donor answers from a copy. Pieces are taken from one list by one
thread per donor, so a faster donor gives more, and what a dying donor owed is asked of the others.
"""

import contextlib
import queue
import sys
import threading

import torch

from papilio._errors import PapilioError, PeerFailed
from papilio._state import Received

MOST_DONORS = 3
_PIECE = 16 << 20  # bytes
_REQUEST, _ANSWER = 0, 1  # channels
_SKELETON, _RANGE, _DONE = 0, 1, 2


class Donor:
    """Serves one receiver from a copy of the state, on a thread of its own."""

    def __init__(self, backend, receiver: int, skeleton: torch.Tensor, flat: torch.Tensor):
        self._backend = backend
        self._receiver = receiver
        self._skeleton = skeleton
        self._flat = flat
        self.thread = threading.Thread(
            target=self._serve, name=f"papilio-donor-{receiver}", daemon=True
        )
        self.thread.start()

    def _serve(self) -> None:
        try:
            while self._answer():
                pass
        except PapilioError:
            pass  # the receiver is gone, or the group is
        except RuntimeError as error:
            print(f"papilio: the state for rank {self._receiver}: {error}", file=sys.stderr)

    def _answer(self) -> bool:
        request = torch.zeros(3, dtype=torch.int64)
        self._backend._recv_state(request, self._receiver, _REQUEST).wait()
        kind, start, stop = request.tolist()
        if kind == _SKELETON:
            size = torch.tensor([self._skeleton.numel()])
            self._backend._send_state(size, self._receiver, _ANSWER).wait()
            self._backend._send_state(self._skeleton, self._receiver, _ANSWER).wait()
        elif kind == _RANGE and 0 <= start < stop <= self._flat.numel():
            self._backend._send_state(self._flat[start:stop], self._receiver, _ANSWER).wait()
        return kind in (_SKELETON, _RANGE)


def _ask(backend, donor: int, kind: int, start: int = 0, stop: int = 0) -> None:
    backend._send_state(torch.tensor([kind, start, stop]), donor, _REQUEST).wait()


def _skeleton_of(backend, donor: int) -> torch.Tensor:
    _ask(backend, donor, _SKELETON)
    size = torch.zeros(1, dtype=torch.int64)
    backend._recv_state(size, donor, _ANSWER).wait()
    skeleton = torch.zeros(int(size), dtype=torch.uint8)
    backend._recv_state(skeleton, donor, _ANSWER).wait()
    return skeleton


class _Fetch:
    """The pieces that are missing, and the donors that still give some."""

    def __init__(self, backend, flat: torch.Tensor):
        self.backend = backend
        self.flat = flat
        self.pieces: queue.SimpleQueue = queue.SimpleQueue()
        self.lost: dict = {}  # donor -> error
        self.missing = flat.numel()  # bytes
        self._lock = threading.Lock()
        for start in range(0, flat.numel(), _PIECE):
            self.pieces.put((start, min(start + _PIECE, flat.numel())))

    def take_from(self, donor: int) -> None:
        piece = None
        try:
            while True:
                try:
                    piece = self.pieces.get_nowait()
                except queue.Empty:
                    break
                _ask(self.backend, donor, _RANGE, *piece)
                part = self.flat[piece[0] : piece[1]]
                self.backend._recv_state(part, donor, _ANSWER).wait()
                piece = None
                with self._lock:
                    self.missing -= part.numel()
        except Exception as error:  # noqa: BLE001 - whatever it is, the piece did not come
            self.lost[donor] = error
            if piece is not None:
                self.pieces.put(piece)

    def run(self, donors: list) -> None:
        while self.missing:
            alive = [donor for donor in donors if donor not in self.lost]
            if not alive:
                raise next(iter(self.lost.values()))
            threads = [threading.Thread(target=self.take_from, args=(d,)) for d in alive]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for donor in donors:
            if donor not in self.lost:
                with contextlib.suppress(PapilioError):  # it has given all that was asked of it
                    _ask(self.backend, donor, _DONE)


def receive(backend, donors: list) -> Received:
    """The state that ``donors`` (ranks with equal replicas) hold; PeerFailed when all are lost."""
    error = None
    for number, donor in enumerate(donors):
        try:
            received = Received(_skeleton_of(backend, donor))
        except PeerFailed as failure:
            error = failure
            continue
        _Fetch(backend, received.flat).run(donors[number:])
        return received
    raise error
