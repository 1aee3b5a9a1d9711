"""Answers ``python -m papilio.top``: what this process's groups look like, to the same user only.

A thread of its own waits at an abstract Unix socket, whose name says whose it is: nothing stays
behind when the process is killed. It starts with the first group and ends when there is none.
"""

import contextlib
import json
import os
import socket
import struct
import threading
import time

from papilio import _native

PREFIX = "papilio-top:"
_PERIOD = 0.5  # seconds between two looks whether there still are groups
_PATIENCE = 2.0  # seconds for a reader to take the answer

_lock = threading.Lock()
_listener: socket.socket | None = None
_thread: threading.Thread | None = None
_stopping = False


def job() -> str:
    """What the processes of one job have in common: the address of their store."""
    return f"{os.environ.get('MASTER_ADDR', 'local')}:{os.environ.get('MASTER_PORT', '0')}"


def _name() -> str:
    return f"{PREFIX}{os.getuid()}:{job()}:{os.environ.get('RANK', '0')}:{os.getpid()}"[:107]


def start() -> None:
    """Called for every group that was made."""
    global _listener, _thread
    with _lock:
        if _listener is not None or _stopping:
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind("\0" + _name())
            listener.listen(4)
        except OSError:  # an onlooker's comfort is no reason to fail
            listener.close()
            return
        listener.settimeout(_PERIOD)
        _listener = listener
        _thread = threading.Thread(target=_serve, args=(listener,), name="papilio-top", daemon=True)
        _thread.start()


def stop() -> None:
    """For the interpreter's exit: a thread that is inside the extension then would abort it."""
    global _stopping
    with _lock:
        _stopping = True
        if _listener is not None:
            _listener.shutdown(socket.SHUT_RDWR)  # accept() returns
    if _thread is not None:
        _thread.join(timeout=2 * _PERIOD)


def _serve(listener: socket.socket) -> None:
    global _listener
    native = _native.load()
    while True:
        with contextlib.suppress(TimeoutError, OSError):
            link, _ = listener.accept()
            with link:
                _answer(link, native)
        # The data itself costs a question to every engine: only for those who ask.
        if native.open_group_count() and not _stopping:
            continue
        with _lock:
            if native.open_group_count() and not _stopping:
                continue
            _listener = None
            listener.close()
            return


def _answer(link: socket.socket, native) -> None:
    credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    if user not in (0, os.getuid()):
        return
    link.settimeout(_PATIENCE)
    head = {"pid": os.getpid(), "rank": int(os.environ.get("RANK", "0")), "when": time.time()}
    link.sendall(json.dumps(head | {"groups": native.open_groups()}).encode())


def _forget() -> None:
    """In a forked child: the socket is the parent's."""
    global _listener, _lock, _thread
    _thread = None
    _lock = threading.Lock()
    if _listener is not None:
        _listener.close()
        _listener = None


os.register_at_fork(after_in_child=_forget)
