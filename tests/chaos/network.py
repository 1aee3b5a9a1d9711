"""Hosts of our own: one network namespace for each rank, joined by a bridge in another one.

Nothing outside of these namespaces is touched; their names carry the pid of the test, and they,
with all links and rules inside, are gone after ``close()``, which also runs when a test fails.
Needs root, iproute2 and nftables. The data of a rank that has such a host goes through its link:
its pid namespace is another one too (zygote.py), so that papilio takes it for another machine.
"""

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading

import delay_line

CLONE_NEWNET = 0x40000000
_PREFIX = "papilio-chaos-"
_GATEWAY = "10.213.0.254"
_numbers = itertools.count(1)


def unavailable() -> str | None:
    """Why there can be no namespaces here; None: they can be made."""
    for tool, package in (("ip", "iproute2"), ("tc", "iproute2"), ("nft", "nftables")):
        if shutil.which(tool) is None:
            return f"'{tool}' is missing (Debian package {package})"
    if os.geteuid() != 0:
        return "network namespaces need root"
    return None


def _run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=20)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}; input: {text}")
    return done.stdout


def _remove_strays() -> None:
    """Namespaces of a test run that was killed: their pid is in the name."""
    for name in os.listdir("/run/netns") if os.path.isdir("/run/netns") else ():
        match = re.fullmatch(_PREFIX + r"(\d+)-\w+", name)
        if match and not os.path.exists(f"/proc/{match[1]}"):
            with contextlib.suppress(OSError):
                _run("ip", "netns", "delete", name)


class Network:
    def __init__(self, hosts: int):
        _remove_strays()
        # Not the names of an earlier one: zygote.py knows a host by its name.
        base = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        self._switch = base + "switch"
        self.hosts = [f"{base}h{k}" for k in range(hosts)]
        self.gateway = _GATEWAY
        self._undo: list = []  # what reset() has to do
        self._lines: list = []  # processes between devices
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        names = [self._switch, *self.hosts]
        _run("ip", "-batch", "-", text="".join(f"netns add {name}\n" for name in names))
        bridge = (
            f"link set lo up\nlink add br0 type bridge\n"
            f"addr add {_GATEWAY}/24 dev br0\nlink set br0 up\n"
        )
        _run("ip", "-n", self._switch, "-batch", "-", text=bridge)
        for k, host in enumerate(self.hosts):
            port = (
                f"link add p{k} type veth peer name eth0 netns {host}\n"
                f"link set p{k} master br0\nlink set p{k} up\n"
            )
            _run("ip", "-n", self._switch, "-batch", "-", text=port)
            card = f"link set lo up\naddr add 10.213.0.{k + 1}/24 dev eth0\nlink set eth0 up\n"
            _run("ip", "-n", host, "-batch", "-", text=card)

    def reset(self) -> None:
        """Takes back all that was done to links."""
        while self._undo:
            self._undo.pop()()

    def close(self) -> None:
        for line in self._lines:
            line.stdin.close()
            line.wait(10)
        for name in [self._switch, *self.hosts]:
            with contextlib.suppress(OSError):
                _run("ip", "netns", "delete", name)

    def inside(self, action, host: int | None = None):
        """Runs ``action`` on a thread in the namespace of the host, or of the switch; what it
        returned."""
        name = self._switch if host is None else self.hosts[host]
        libc = ctypes.CDLL(None, use_errno=True)
        result = []

        def work():
            with open(f"/run/netns/{name}") as namespace:
                if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            result.append(action())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return result[0]

    # What is done to the link of one host.

    def _nft(self, host: int, text: str) -> str:
        return _run("ip", "netns", "exec", self.hosts[host], "nft", "-f", "-", text=text)

    def drop(self, host: int, directions=("input", "output"), rule: str = "") -> None:
        """Drops what comes in or goes out (that the rule matches), without a word to anybody."""
        chains = "".join(
            f"chain {d} {{ type filter hook {d} priority 0; {rule} counter drop; }}\n"
            for d in directions
        )
        self._nft(host, f"table inet chaos {{\n{chains}}}\n")
        self._undo.append(lambda: self._nft(host, "delete table inet chaos\n"))

    def dropped(self, host: int) -> dict:
        """Packets by direction."""
        text = self._nft(host, "list table inet chaos\n")
        found = re.findall(r"hook (\w+) .*?counter packets (\d+)", text, re.DOTALL)
        return {direction: int(packets) for direction, packets in found}

    def unplug(self, host: int) -> None:
        """Pulls the cable at the switch."""
        port = ("ip", "-n", self._switch, "link", "set", f"p{host}")
        _run(*port, "down")
        self._undo.append(lambda: _run(*port, "up"))

    def has_carrier(self, host: int) -> bool:
        return "NO-CARRIER" not in _run("ip", "-n", self.hosts[host], "link", "show", "eth0")

    def limit(self, host: int, rate: str, burst: str = "16kb") -> None:
        """Both directions of the link carry that much only. ``burst``: more for a fast link, whose
        packets would have to wait for the timer's next tick."""
        shape = ("root", "tbf", "rate", rate, "burst", burst, "latency", "200ms")
        for place, device in ((self.hosts[host], "eth0"), (self._switch, f"p{host}")):
            _run("tc", "-n", place, "qdisc", "add", "dev", device, *shape)
            take_back = ("tc", "-n", place, "qdisc", "del", "dev", device, "root")
            self._undo.append(lambda command=take_back: _run(*command))

    def delay(self, host: int, seconds: float) -> None:
        """Replaces the link by one whose frames take that long, in both directions. Before there
        are ranks."""
        port = f"p{host}"
        _run("ip", "-n", self.hosts[host], "link", "del", "eth0")  # its other end goes with it
        ends = [
            self.inside(lambda: delay_line.open_tap("eth0"), host),
            self.inside(lambda: delay_line.open_tap(port)),
        ]
        program = [sys.executable, delay_line.__file__, *map(str, ends), str(seconds)]
        line = subprocess.Popen(program, pass_fds=ends, stdin=subprocess.PIPE)
        for end in ends:
            os.close(end)
        card = f"addr add 10.213.0.{host + 1}/24 dev eth0\nlink set eth0 up\n"
        _run("ip", "-n", self.hosts[host], "-batch", "-", text=card)
        switch = f"link set {port} master br0\nlink set {port} up\n"
        _run("ip", "-n", self._switch, "-batch", "-", text=switch)
        self._lines.append(line)

    def limited(self, host: int) -> int:
        """How often a packet had to wait."""
        text = _run("tc", "-n", self.hosts[host], "-s", "qdisc", "show", "dev", "eth0")
        return int(re.search(r"overlimits (\d+)", text)[1])

    def sent(self, host: int) -> int:
        """Bytes that left the host so far."""
        text = _run("ip", "-n", self.hosts[host], "-s", "link", "show", "eth0")
        return int(re.search(r"TX:.*?\n\s*(\d+)", text)[1])
