"""Forks ranks: one process imports torch once, every rank is a fork of it and starts in moments.

Speaks over the socket whose number is its argument. Request, one JSON object: ``{"fork":
environment}`` with three descriptors (stdin, stdout, stderr of the rank), answered with ``{"pid":
...}`` (TEST_NETWORK in the environment names a network namespace for it alone, TEST_HOST one that
it shares with others); ``{"reap": pid}``, sent
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
import signal
import socket
import sys
import time

CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000


@atexit.register
def _handlers_done() -> None:
    """Runs after all other exit handlers, as the first one that was registered."""
    worker = sys.modules.get("worker")
    if worker is not None and worker.LEAVING:
        print(json.dumps({"handlers_done": time.monotonic()}), flush=True)


class Host:
    """A pid namespace with a /proc of its own, in a network namespace, for several ranks: they
    share a host, and to all others it is another machine."""

    known: dict = {}

    def __init__(self, network: str):
        self._libc = ctypes.CDLL(None, use_errno=True)
        own = os.open("/proc/self/ns/pid", os.O_RDONLY)
        ready, ours = os.pipe()
        self._call("unshare", CLONE_NEWPID)  # for children only
        first = os.fork()  # the namespace lives as long as this process
        if first == 0:
            self._be_first(network, ours)
        self._call("setns", own, CLONE_NEWPID)
        os.close(own)
        os.close(ours)
        assert os.read(ready, 1) == b".", f"no host in the namespace {network}"
        os.close(ready)
        self._spaces = {
            kind: os.open(f"/proc/{first}/ns/{name}", os.O_RDONLY)
            for kind, name in ((CLONE_NEWPID, "pid"), (CLONE_NEWNS, "mnt"), (CLONE_NEWNET, "net"))
        }

    def _call(self, name: str, *arguments) -> None:
        if getattr(self._libc, name)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), name)

    def _be_first(self, network: str, ready: int) -> None:
        try:
            with open(f"/run/netns/{network}") as space:
                self._call("setns", space.fileno(), CLONE_NEWNET)
            self._call("unshare", CLONE_NEWNS)
            private_and_recursive = 0x40000 | 0x4000
            self._call("mount", None, b"/", None, private_and_recursive, None)
            self._call("mount", b"proc", b"/proc", b"proc", 0, None)
            self._call("prctl", 1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not longer than the zygote
            os.write(ready, b".")
            while True:
                signal.pause()
        finally:
            os._exit(1)

    def fork(self) -> int:
        own = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self._call("setns", self._spaces[CLONE_NEWPID], CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            for kind in (CLONE_NEWNS, CLONE_NEWNET):
                self._call("setns", self._spaces[kind], kind)
        else:
            self._call("setns", own, CLONE_NEWPID)
        os.close(own)
        return pid


def fork(network: str | None, host: str | None = None) -> int:
    """As ``os.fork``; with the name of a network namespace the child is on a host of its own: in
    there, and in a pid namespace of its own, by which papilio tells hosts apart."""
    if host:
        if host not in Host.known:
            Host.known[host] = Host(host)
        return Host.known[host].fork()
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
        environment = request["fork"]
        pid = fork(environment.get("TEST_NETWORK"), environment.get("TEST_HOST"))
        if pid == 0:
            connection.close()
            become_rank(request["fork"], descriptors)
            return  # the interpreter ends as it does at the end of any script
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(json.dumps({"pid": pid}).encode())


if __name__ == "__main__":
    main()
