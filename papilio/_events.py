"""Delivers events to user functions on a thread of its own."""

import queue
import sys
import threading
import time
import traceback

from papilio._reports import Event

_handlers: list = []
_lock = threading.Lock()
_queue: queue.SimpleQueue | None = None


def on_event(handler):
    """Calls ``handler(Event)`` for everything that happens from now on; returns ``handler``.

    Runs on a thread of its own. An exception in ``handler`` is logged, never propagated.
    """
    global _queue
    if not callable(handler):
        raise TypeError(f"on_event needs a function, got {type(handler).__name__}")
    with _lock:
        _handlers.append(handler)
        if _queue is None:
            _queue = queue.SimpleQueue()
            threading.Thread(target=_deliver, name="papilio-events", daemon=True).start()
    return handler


def publish(raw: dict) -> None:
    """Called by the extension with the interpreter lock held; never blocks."""
    if _queue is not None:
        _queue.put(Event(when=time.time(), **raw))


def flush(timeout: float) -> bool:
    """Waits until everything published so far was delivered; False when that took too long."""
    if _queue is None:
        return True
    delivered = threading.Event()
    _queue.put(delivered)
    return delivered.wait(timeout)


def _deliver() -> None:
    while True:
        event = _queue.get()
        if isinstance(event, threading.Event):
            event.set()
            continue
        with _lock:
            handlers = list(_handlers)
        for handler in handlers:
            try:
                handler(event)
            except Exception:  # noqa: BLE001 - the user's code must not stop the delivery
                print(f"papilio: on_event handler {handler!r} failed:", file=sys.stderr)
                traceback.print_exc()
