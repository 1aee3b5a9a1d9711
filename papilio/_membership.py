"""Membership that changes between training steps: who asks to come in, and what a new view means.

The store is the address book of those that want to join, nothing else: members go on without it.
Keys, below the group's place: ``joins`` (a counter), ``join/N`` (who asked), ``view`` (the newest
view), ``admit/RANK/RECORD`` (the view that lets that process in).
"""

import json
import sys
import threading
import time
from datetime import timedelta

from papilio._errors import Aborted, DeadlineExceeded, Evicted, QuorumLost
from papilio._options import log_level

_LOOK = 0.2  # seconds between looks at the store …
_LOOK_MISSING = 0.05  # … while a rank is missing, which may come back
_RETRY = 5.0  # seconds after one that failed
_SAY = 10.0  # seconds between words about a wait
_MEET = 20.0  # seconds in which a member must be met, if there is one
_STORE_TIMEOUT = timedelta(seconds=10)


def _own_connection(store):
    """A store client for this thread: a call of another one must not block it, nor be blocked."""
    clone = getattr(store, "clone", None)
    own = clone() if clone is not None else store
    own.set_timeout(_STORE_TIMEOUT)
    return own


class _Watch(threading.Thread):
    """Tells the group who asks to join."""

    def __init__(self, membership):
        super().__init__(name="papilio-joins", daemon=True)
        self._membership = membership
        self._place = membership.backend._membership()["place"]
        self._store = _own_connection(membership.backend._store)
        self._seen = 0
        self._asked: dict = {}  # rank -> record
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._complained = False

    def run(self) -> None:
        pause = _LOOK
        while not self._end.wait(pause) and not self._membership.backend._is_shut_down:
            pause = self._pause() if self._look() else _RETRY
        self._store = None  # closes the connection

    def _pause(self) -> float:
        return _LOOK_MISSING if self._membership.backend._membership()["absent"] else _LOOK

    def _look(self) -> bool:
        try:
            count = self._store.add(f"{self._place}/joins", 0)
            for number in range(self._seen + 1, count + 1):
                self._read(number)
            return True
        except (RuntimeError, ValueError) as error:  # the store's errors are RuntimeErrors
            over = self._end.is_set() or self._membership.backend._is_shut_down
            if not self._complained and not over:
                self._membership.say(
                    f"the store does not answer ({str(error).splitlines()[0]}); training goes on, "
                    "but a rank that is restarted cannot come back"
                )
                self._complained = True
            return False

    def _read(self, number: int) -> None:
        self._seen = number
        key = f"{self._place}/join/{number}"
        for _ in range(2):
            if self._store.check([key]):
                break
            self._end.wait(_LOOK)  # it took its number a moment ago …
        else:
            return  # … or died right then, and nothing will come
        asked = json.loads(self._store.get(key))
        self._add(asked["rank"], asked["record"])

    def _add(self, rank: int, record: str) -> None:
        with self._lock:
            self._asked[rank] = record
        self._tell()

    def _tell(self) -> None:
        """Again for every view: it forgets with the group."""
        with self._lock:
            asked = dict(self._asked)
        try:
            view = self._membership.backend._membership()
            for rank, record in asked.items():
                known = 0 <= rank < len(view["records"])
                if known and (rank in view["absent"] or view["records"][rank] != record):
                    self._membership.backend._want(rank, record)
        except RuntimeError:
            pass  # shut down meanwhile

    def view_changed(self) -> None:
        self._tell()

    def stop(self) -> None:
        self._end.set()
        self.join(2.0)


class Membership:
    """What one group of this process knows of its views. One training thread calls it."""

    def __init__(self, backend, on_install):
        """``on_install(joining)`` brings the replicas together in a new view; ``joining`` says
        whether this rank is new in it."""
        self.backend = backend
        self._on_install = on_install
        self._watch: _Watch | None = None
        if not backend._alone:
            self._start_watch()

    def _start_watch(self) -> None:
        self._watch = _Watch(self)
        self._watch.start()

    def say(self, text: str) -> None:
        if log_level() in ("error", "off"):
            return
        backend = self.backend
        where = f"papilio[rank {backend.rank()}/{backend.size()} {backend._group_name}]"
        print(f"{where} {text}", file=sys.stderr, flush=True)

    def stop(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def boundary(self) -> bool:
        """Between two steps of a member; True when a new view began here."""
        what, view, ranks = self.backend._boundary()
        if what == "pass":
            return False
        if what == "install":
            self._install(view)
            return True
        raise _refusal(what, ranks, self.backend)

    def _install(self, view: dict) -> None:
        # Before the wait for the new member, which learns from here that it is let in.
        self._publish(view)
        self.backend._install(view)
        self._on_install(False)
        if self._watch is not None:
            self._watch.view_changed()

    def _publish(self, view: dict) -> None:
        text = json.dumps(view)
        place = view["place"]
        try:
            store = self.backend._store
            store.set(f"{place}/view", text)
            for rank in view["fresh"]:
                store.set(f"{place}/admit/{rank}/{view['records'][rank]}", text)
        except RuntimeError as error:
            self.say(f"the store does not take the new view: {str(error).splitlines()[0]}")

    def join(self, wait: float) -> int:
        """Asks to be let in, and blocks until it is; the step that the group has reached."""
        backend, store = self.backend, _own_connection(self.backend._store)
        rank, record = backend.rank(), backend._record
        place = backend._membership()["place"]
        admit = f"{place}/admit/{rank}/{record}"
        store.delete_key(admit)  # of an earlier time, when this process comes back once more
        number = store.add(f"{place}/joins", 1)
        store.set(f"{place}/join/{number}", json.dumps({"rank": rank, "record": record}))
        begin = said = met = time.monotonic()
        while not store.check([admit]):
            connected, possible = self._members_left(store, place, rank)
            now = time.monotonic()
            met = now if connected else met
            if not possible or now - met > _MEET:
                raise QuorumLost(
                    f"papilio: rank {rank} was restarted, but no member of the group is left to "
                    "let it in; start the whole job again"
                )
            if now - begin > wait:
                raise DeadlineExceeded(
                    f"papilio: rank {rank} timed out after {wait:g} s of waiting to be let in; do "
                    "the others call papilio.attach(), and train?"
                )
            if now - said > _SAY:
                said = now
                self.say(f"waits {now - begin:.0f} s to be let in at the end of a step")
            time.sleep(_LOOK / 10)
        view = json.loads(store.get(admit))
        backend._install(view)
        self._on_install(True)
        self._start_watch()
        return view["step"]

    def _members_left(self, store, place: str, rank: int) -> tuple:
        """Connects to the present members, so that they can see this process end.

        Returns how many are connected, and how many are that or may still be.
        """
        view = self.backend._membership()
        if store.check([f"{place}/view"]):
            view = json.loads(store.get(f"{place}/view"))
        records = [
            record
            for other, record in enumerate(view["records"])
            if other != rank and other not in view["absent"]
        ]
        if view["view"] == 0:  # no view but the first one so far, which had all ranks
            records = [r for other, r in enumerate(view["records"]) if other != rank]
        return self.backend._meet(records)


def _refusal(what: str, ranks: list, backend) -> Exception:
    rank = backend.rank()
    if what == "expelled":
        error = Evicted(
            f"papilio: the others (ranks {ranks}) went on without rank {rank}, which did not "
            "answer when the next view was decided; call papilio.rejoin(), or end and be restarted"
        )
        error.ranks, error.reason = tuple(ranks), "slow"
    elif what == "undecided":
        error = QuorumLost(
            f"papilio: rank {rank} could not agree with a majority on who is in the group: no word "
            f"from ranks {ranks}; end and be restarted, or start the job again"
        )
        error.ranks, error.reason = tuple(ranks), "unreachable"
    else:
        error = Aborted(f"papilio: the group of rank {rank} was ended during a change of members")
    return error
