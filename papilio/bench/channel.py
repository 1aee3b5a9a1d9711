"""Out-of-band messages between the supervisor and one rank: JSON, one object per line."""

import json
import select
import socket
import time


class Closed(Exception):
    """The other side is gone."""


class Channel:
    """One end of a socket pair. Not thread-safe."""

    def __init__(self, sock: socket.socket):
        self.socket = sock
        self._buffer = b""

    def send(self, message: dict) -> None:
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Closed(str(error)) from None

    def pending(self) -> bool:
        """Is a whole message here already?"""
        return b"\n" in self._buffer

    def receive(self, deadline: float | None = None) -> dict:
        """The next message; TimeoutError once ``time.monotonic()`` passes ``deadline``."""
        while b"\n" not in self._buffer:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                    raise TimeoutError
            try:
                data = self.socket.recv(1 << 20)
            except OSError:
                data = b""
            if not data:
                raise Closed("connection closed")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)
