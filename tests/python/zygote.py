"""Forks ranks: one process imports torch once, every rank is a fork of it and starts in moments.

Speaks over the socket whose number is its argument. Request, one JSON object: ``{"fork":
environment}`` with three descriptors (stdin, stdout, stderr of the rank), answered with ``{"pid":
...}`` (TEST_NETWORK in the environment names a network namespace for it); ``{"reap": pid}``, sent
when that process has ended, answered with ``{"status": exit code}``, negative for a signal;
``{"import": module}``, for what many ranks need and takes long to load, answered with ``{}``. Ends
when the socket closes. No thread may exist here, and the extension is not loaded: a rank loads it
for itself.
"""

import atexit
import ctypes
import importlib
import json
import os
import socket
import sys
import time

CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000


@atexit.register
def _handlers_done() -> None:
    """Runs after all other exit handlers, as the first one that was registered."""
    worker = sys.modules.get("worker")
    if worker is not None and worker.LEAVING:
        print(json.dumps({"handlers_done": time.monotonic()}), flush=True)


def fork(network: str | None) -> int:
    """As ``os.fork``; with the name of a network namespace the child is on a host of its own: in
    there, and in a pid namespace of its own, by which papilio tells hosts apart."""
    if not network:
        return os.fork()
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    other = os.open(f"/run/netns/{network}", os.O_RDONLY)
    if libc.unshare(CLONE_NEWPID) != 0:  # for children only
        raise OSError(ctypes.get_errno(), "unshare")
    pid = os.fork()
    if pid == 0 and libc.setns(other, CLONE_NEWNET) != 0:
        os._exit(1)
    if pid != 0 and libc.setns(own, CLONE_NEWPID) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(own)
    os.close(other)
    return pid


def become_rank(environment: dict, descriptors: list) -> None:
    import worker

    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    worker.main()


def main() -> None:
    import torch  # noqa: F401 - the expensive part, before the first fork
    import worker  # noqa: F401

    connection = socket.socket(fileno=int(sys.argv[1]))
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if not data:
            return
        request = json.loads(data)
        if "reap" in request:
            _, status = os.waitpid(request["reap"], 0)
            connection.send(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode())
            continue
        if "import" in request:
            importlib.import_module(request["import"])
            connection.send(b"{}")
            continue
        pid = fork(request["fork"].get("TEST_NETWORK"))
        if pid == 0:
            connection.close()
            become_rank(request["fork"], descriptors)
            return  # the interpreter ends as it does at the end of any script
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(json.dumps({"pid": pid}).encode())


if __name__ == "__main__":
    main()
