"""Delivers events to user functions on a thread of its own."""

import queue
import sys
import threading
import time
import traceback

from papilio._reports import Event

_IDLE = 0.5  # seconds without an event after which the thread ends, so that none stays behind

_handlers: list = []
_lock = threading.Lock()
_queue: queue.SimpleQueue = queue.SimpleQueue()
_thread: threading.Thread | None = None


def on_event(handler):
    """Calls ``handler(Event)`` for everything that happens from now on; returns ``handler``.

    Runs on a thread of its own. An exception in ``handler`` is logged, never propagated.
    """
    if not callable(handler):
        raise TypeError(f"on_event needs a function, got {type(handler).__name__}")
    with _lock:
        _handlers.append(handler)
    return handler


def publish(raw: dict) -> None:
    """Called by the extension with the interpreter lock held; never blocks."""
    if _handlers:
        _put(Event(when=time.time(), **raw))


def flush(timeout: float) -> bool:
    """Waits until everything published so far was delivered; False when that took too long."""
    delivered = threading.Event()
    with _lock:
        if _thread is None:
            return True
    _put(delivered)
    return delivered.wait(timeout)


def _put(item) -> None:
    global _thread
    with _lock:
        _queue.put(item)
        if _thread is None:
            _thread = threading.Thread(target=_deliver, name="papilio-events", daemon=True)
            _thread.start()


def _next():
    """The next item; None when the thread may end."""
    global _thread
    try:
        return _queue.get(timeout=_IDLE)
    except queue.Empty:
        with _lock:
            if not _queue.empty():
                return _queue.get()
            _thread = None
            return None


def _deliver() -> None:
    while (item := _next()) is not None:
        if isinstance(item, threading.Event):
            item.set()
            continue
        with _lock:
            handlers = list(_handlers)
        for handler in handlers:
            try:
                handler(item)
            except Exception:  # noqa: BLE001 - the user's code must not stop the delivery
                print(f"papilio: on_event handler {handler!r} failed:", file=sys.stderr)
                traceback.print_exc()
