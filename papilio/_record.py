"""``PAPILIO_EVENTS_FILE``: everything that happened to this rank's groups, one JSON object a line.

For supervisors and post-mortems, with no line in the training script. ``{rank}`` and ``{pid}`` in
the name are filled in; without them all ranks may append to one file, as a line is a single write.
Every line has ``me`` (the writer's rank in the group), ``pid``, ``group``, ``when`` (seconds, as
``time.time()``) and ``kind``:

* ``"group"``: a group was created, or its members were replaced (``reconfigure``); ``size``.
* an event kind (``"peer_lost"``, ``"blacklisted"``, ...): the fields of ``papilio.Event``.
* ``"round"``: a collective ended; the fields of ``papilio.Report``, ``when`` up to 0.1 s late.
* ``"missed"``: the history (``report_history``) was too short, some reports are not in the file.

Unset, it costs nothing. Set, a thread of its own reads the report history 20 times a second; the
threads that carry data never touch the file. A process that is killed loses its last 0.1 s.
"""

import json
import os
import sys
import threading
import time

from papilio import _events
from papilio._reports import report_from

_VARIABLE = "PAPILIO_EVENTS_FILE"
_PERIOD = 0.05  # seconds


def _unread(backend, last_written) -> tuple[list, bool]:
    """Reports that finished after the one numbered ``last_written``, and whether some are lost."""
    count = 16
    while True:
        raw = backend._reports(count)
        for index in range(len(raw) - 1, -1, -1):
            if raw[index]["seq"] == last_written:
                return raw[index + 1 :], False
        if len(raw) < count:
            return raw, last_written is not None
        count *= 2


class _Recorder:
    """The file of this process and the thread that writes the rounds of all its groups."""

    def __init__(self, path: str):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o644)
        self._lock = threading.Lock()
        # backend -> generation of its members, number of the last written report
        self._groups: dict = {}
        self._ranks: dict = {}  # group name -> rank of this process in it
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="papilio-record", daemon=True)
        _events.on_event(self._event)
        self._thread.start()

    def add(self, backend) -> None:
        with self._lock:
            self._groups[backend] = (backend._generation, None)
            self._ranks[backend._group_name] = backend.rank()
        self._write(backend._group_name, "group", {"size": backend.size()})

    def finish(self) -> None:
        """Writes what is left; nothing is recorded afterwards. Waits at most two seconds."""
        _events.flush(timeout=1.0)
        self._stop.set()
        self._thread.join(timeout=1.0)

    def _write(self, group: str, kind: str, fields: dict) -> None:
        head = {"me": self._ranks.get(group), "pid": os.getpid(), "when": time.time()}
        line = json.dumps({**head, **fields, "group": group, "kind": kind}, default=str) + "\n"
        try:
            if self._file is not None:
                os.write(self._file, line.encode())
        except OSError as error:
            self._file = None
            print(f"papilio: {_VARIABLE}: {error}; nothing more is recorded", file=sys.stderr)

    def _event(self, event) -> None:
        fields = dict(vars(event))
        self._write(fields.pop("group"), fields.pop("kind"), fields)

    def _main(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stop.wait(_PERIOD)
            for backend in list(self._groups):
                self._drain(backend)

    def _drain(self, backend) -> None:
        if backend._generation != self._groups[backend][0]:
            self.add(backend)  # rounds are numbered from 1 again
        ended = not backend._engine_stats()  # before reading: nothing comes after the last report
        generation, last = self._groups[backend]
        try:
            raw, lost = _unread(backend, last)
        except RuntimeError:
            raw, lost = [], False  # no members at present
        if lost:
            self._write(backend._group_name, "missed", {})
        for report in raw:
            self._write(backend._group_name, "round", report_from(report).asdict())
        with self._lock:
            if raw:
                self._groups[backend] = (generation, raw[-1]["seq"])
            if ended:
                del self._groups[backend]


_recorder: _Recorder | None = None


def recorder(rank: int) -> _Recorder | None:
    """The recorder of this process, None when PAPILIO_EVENTS_FILE is not set.

    ``rank`` fills in ``{rank}`` when the variable RANK does not. Raises ValueError for a bad path.
    """
    global _recorder
    template = os.environ.get(_VARIABLE)
    if _recorder is None and template:
        name = os.environ.get("RANK", str(rank))
        path = template.replace("{rank}", name).replace("{pid}", str(os.getpid()))
        try:
            _recorder = _Recorder(path)
        except OSError as error:
            raise ValueError(f"papilio: {_VARIABLE}={template!r}: {error}") from None
    return _recorder


def finish() -> None:
    """At interpreter exit, after the groups were shut down."""
    if _recorder is not None:
        _recorder.finish()
