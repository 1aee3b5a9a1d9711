"""``python -m papilio.top``: the jobs of this host in a terminal, one row per rank.

Asks every process of the same user that has a papilio group, through the socket that
``papilio._glance`` answers; a process that does not answer is shown with the state that the kernel
knows. Rates are those between two looks.
"""

import argparse
import dataclasses
import json
import os
import re
import signal
import socket
import statistics
import struct
import sys
import time

from papilio import _glance

_PATIENCE = 0.5  # seconds for a process to answer
_ROW = "{:>4} {:>8} {:<9} {:>8} {:>8} {:>8} {:>7} {:>6} {:>9} {:>9} {:>9} {:>9}  {}"
_HEAD = ("rank", "pid", "state", "seq", "rounds/s", "MB/s", "degr", "local")
_HEAD += ("last ms", "lag ms", "rtt ms", "in MB/s", "lane")
_STATES = {"T": "stopped", "t": "traced", "Z": "zombie", "D": "in the kernel"}
_WORST = ("dead", "left", "blacklisted", "suspect", "joining", "live")

_EPILOG = """\
seq, rounds/s, MB/s (received by its process), degr, local and last ms are the rank's own word; lag
(how far behind the median member its data arrives), rtt, in (bytes received from it, while it sent)
and state are the median, or the worst, of what the others of this host say of it.

exit status: 0; 1 when no job was found (--once); 2 wrong arguments
"""


@dataclasses.dataclass
class _Process:
    """What one process answered; ``when`` is 0 when it did not."""

    job: str
    rank: int
    pid: int
    when: float = 0.0
    groups: list = dataclasses.field(default_factory=list)


def find(job: str | None = None) -> list:
    """(job, rank, pid, socket name) of every process of this user, whether or not it answers."""
    pattern = re.compile(rf"@({re.escape(_glance.PREFIX)}{os.getuid()}:(.*):(\d+):(\d+))$")
    found = set()
    with open("/proc/net/unix") as file:
        for line in file:
            match = pattern.search(line.rstrip("\n"))
            if match and job in (None, match[2]):
                found.add((match[2], int(match[3]), int(match[4]), match[1]))
    return sorted(found)


def _ask(name: str) -> dict | None:
    """The answer behind a name; None when there is none in time, or another user's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(_PATIENCE)
        try:
            link.connect("\0" + name)
            size = struct.calcsize("3i")
            _, user, _ = struct.unpack(
                "3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            )
            if user != os.getuid():
                return None
            data = b""
            while part := link.recv(1 << 16):
                data += part
            return json.loads(data)
        except (OSError, ValueError):
            return None


def look(job: str | None = None) -> list:
    """One look at all processes."""
    out = []
    for name_of_job, rank, pid, name in find(job):
        process = _Process(name_of_job, rank, pid)
        answer = _ask(name)
        if answer is not None:
            process.when, process.groups = answer["when"], answer["groups"]
        out.append(process)
    return out


def _kernel_state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as file:
            letter = file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"
    return _STATES.get(letter, "silent")


def _is_alone(group: dict) -> bool:
    """A restarted rank that was not let in yet: it knows nothing of the others."""
    return group["stats"].get("views") == 0


def _opinions(group_name: str, processes: list) -> dict:
    """rank -> what the other members say of it, in this group."""
    out: dict = {}
    for process in processes:
        for group in process.groups:
            if group["name"] == group_name and not _is_alone(group):
                for peer in group["peers"]:
                    if peer["state"] != "self":
                        out.setdefault(peer["rank"], []).append(peer)
    return out


def _middle(peers: list, key: str, scale: float, digits: int) -> str:
    values = [peer[key] for peer in peers if peer[key] > 0]
    return f"{statistics.median(values) * scale:.{digits}f}" if values else "-"


def _own(group: dict, when: float, before: dict) -> list:
    """seq, rounds/s, MB/s, degraded, local, last ms of a rank that answered."""
    stats = group["stats"]
    rounds = sum(stats.get(f"rounds.{kind}", 0) for kind in ("complete", "degraded", "local"))
    reports = group["reports"]
    done, moved = rounds, group["engine"].get("bytes.received", 0)
    rate = speed = "-"
    old = before.get(group["name"])
    if old is not None and when > old[0]:
        rate = f"{(done - old[1]) / (when - old[0]):.1f}"
        speed = f"{(moved - old[2]) / (when - old[0]) / 1e6:.1f}"
    before[group["name"]] = (when, done, moved)
    return [
        reports[-1]["seq"] if reports else "-",
        rate,
        speed,
        f"{stats.get('rounds.degraded', 0):.0f}",
        f"{stats.get('rounds.local', 0):.0f}",
        f"{reports[-1]['elapsed'] * 1e3:.1f}" if reports else "-",
    ]


class View:
    """Turns looks into lines; remembers the last look for rates."""

    def __init__(self):
        self._before: dict = {}  # pid -> group name -> (when, rounds, bytes)

    def lines(self, processes: list) -> list:
        out = []
        for job in sorted({process.job for process in processes}):
            mine = [process for process in processes if process.job == job]
            out += self._job(job, mine)
        return out

    def _job(self, job: str, processes: list) -> list:
        out = [f"job {job}, {len(processes)} processes on this host"]
        groups: dict = {}
        for process in processes:
            for group in process.groups:
                groups.setdefault(group["name"], group["size"])
        if not groups:
            silent = ", ".join(f"{p.pid} ({_kernel_state(p.pid)})" for p in processes)
            return [*out, f"  nobody answers: {silent}", ""]
        for name, size in groups.items():
            out += ["", f"group {name}, {size} ranks", _ROW.format(*_HEAD).rstrip()]
            out += self._group(name, size, processes)
        return [*out, ""]

    def _group(self, name: str, size: int, processes: list) -> list:
        opinions = _opinions(name, processes)
        out, notes = [], []
        silent = {p.rank: p for p in processes if not p.when}
        members = {g["rank"]: (p, g) for p in processes for g in p.groups if g["name"] == name}
        for rank in range(size):
            peers = opinions.get(rank, [])
            states = {peer["state"] for peer in peers}
            state = next((s for s in _WORST if s in states), "live" if rank in members else "-")
            own, pid = ["-"] * 6, "-"
            if rank in members:
                process, group = members[rank]
                pid = str(process.pid)
                own = _own(group, process.when, self._before.setdefault(process.pid, {}))
                notes += _blacklist_notes(rank, group)
                state = "joining" if _is_alone(group) else state
            elif name == "world" and rank in silent:
                pid = str(silent[rank].pid)
                kernel = _kernel_state(silent[rank].pid)
                state = kernel if kernel != "silent" else state
                notes.append(_silence(rank, silent[rank].pid, kernel))
            row = [
                *(rank, pid, state, *own),
                _middle(peers, "lag", 1e3, 1),
                _middle(peers, "rtt", 1e3, 2),
                _middle(peers, "goodput", 1e-6, 0),
                ",".join(sorted({peer["lane"] for peer in peers} - {"none"})) or "-",
            ]
            out.append(_ROW.format(*row).rstrip())
        return out + sorted(set(notes))


def _silence(rank: int, pid: int, kernel: str) -> str:
    if kernel == "stopped":
        return f"!! rank {rank} is stopped (SIGSTOP, or a terminal): kill -CONT {pid}"
    return f"!! rank {rank}, process {pid}, does not answer within {_PATIENCE} s: {kernel}"


def _blacklist_notes(rank: int, group: dict) -> list:
    out = []
    for entry in group["blacklist"]:
        left = entry["expires_in"]
        until = "until it is back in order" if left is None else f"{left:.0f} s more"
        out.append(f"!! rank {rank} blacklists rank {entry['rank']}: {entry['reason']}, {until}")
    return out


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m papilio.top",
        description="Live view of the papilio jobs of this user on this host.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--job", metavar="ID", help="one job: the address of its store, host:port")
    parser.add_argument("--once", action="store_true", help="two looks, one table, the end")
    parser.add_argument(
        *("-i", "--interval"), type=float, default=1.0, metavar="S", help="between two looks (1)"
    )
    return parser


def main(arguments=None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if not 0.1 <= options.interval <= 3600:
        parser.error(f"-i {options.interval:g} is not in 0.1 .. 3600")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    view, terminal = View(), sys.stdout.isatty()
    view.lines(look(options.job))  # rates need a look before
    try:
        while True:
            time.sleep(options.interval)
            processes = look(options.job)
            lines = view.lines(processes) or [f"no job{f' {options.job}' if options.job else ''}"]
            if terminal and not options.once:
                sys.stdout.write("\x1b[H\x1b[2J")
            print(
                time.strftime("papilio.top %H:%M:%S  ") + lines[0], *lines[1:], sep="\n", flush=True
            )
            if options.once:
                return 0 if processes else 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 0


if __name__ == "__main__":
    sys.exit(main())
