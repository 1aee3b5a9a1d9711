"""What can be read off this machine, without starting a group. Nothing here changes anything."""

import dataclasses
import fcntl
import itertools
import os
import platform
import resource
import shutil
import socket
import struct

from papilio import _native

_SIOCGIFADDR = 0x8915
DESCRIPTORS = 20  # of a process with a group, at most …
DESCRIPTORS_PER_PEER = 4  # … and for each other process: control connection, two bells, pidfd
_OTHERS = 64  # descriptors of the training script itself
_MOST_RANKS = 256
_SHARED = 128 << 20  # bytes a rank may have in its segment


@dataclasses.dataclass
class Line:
    """One line of the report. ``problem``: of the exit status; ``advice``: what to do then."""

    topic: str
    text: str
    problem: bool = False
    advice: str = ""


def _ok(topic: str, text: str) -> Line:
    return Line(topic, text)


def _bad(topic: str, text: str, advice: str) -> Line:
    return Line(topic, text, True, advice)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def versions() -> list:
    """Papilio, the torch it was built for and the one that is here, UCX."""
    import torch

    from papilio import _native

    system = f"Python {platform.python_version()}, Linux {platform.release()}"
    try:
        native = _native.load()
    except ImportError as error:
        return [_bad("versions", str(error), "papilio can not start here before that is mended")]
    return [
        _ok(
            "versions",
            f"{native.versions()} (built with), torch {torch.__version__} (here); {system}",
        )
    ]


def host() -> list:
    """CPUs that this process may use, and a quota that makes them fewer."""
    usable, whole = len(os.sched_getaffinity(0)), os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    out = [_ok("host", f"{platform.node()}: {usable} of {whole} CPUs usable, {memory:.1f} GiB")]
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and int(quota) < int(period) * usable:
        cpus = int(quota) / int(period)
        out.append(
            _bad(
                "host",
                f"the control group allows {cpus:.2f} CPUs of {usable}: the kernel stops all "
                "processes of it for the rest of each period, which looks like frozen ranks",
                "raise cpu.max (a container's CPU limit), or start fewer ranks",
            )
        )
    return out


def limits() -> list:
    """Descriptors, shared memory, pidfd."""
    out = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _OTHERS + DESCRIPTORS + DESCRIPTORS_PER_PEER * _MOST_RANKS
    enough = soft == resource.RLIM_INFINITY or soft >= needed
    text = (
        f"open files: {soft} (hard {hard}); papilio needs {DESCRIPTORS_PER_PEER} per peer process"
    )
    if enough:
        out.append(_ok("limits", text))
    else:
        ranks = max((soft - _OTHERS - DESCRIPTORS) // DESCRIPTORS_PER_PEER, 0)
        out.append(_bad("limits", f"{text}: enough for {ranks} ranks", "ulimit -n 65536"))
    try:
        os.close(os.pidfd_open(os.getpid()))
        out.append(_ok("limits", "pidfd: a dead rank of this host is seen at once"))
    except OSError as error:
        out.append(
            _bad(
                "limits",
                f"pidfd_open does not work ({error.strerror}): a death is seen by its connections",
                "allow pidfd_open in the container's seccomp profile (Linux 5.3 or newer)",
            )
        )
    try:
        os.close(os.memfd_create("papilio-doctor"))
        free = min(_available_memory(), _shared_limit())
        text = f"shared memory (memfd): {free / (1 << 30):.1f} GiB free"
        out.append(
            _ok("limits", text)
            if free > _SHARED
            else _bad("limits", text, f"a rank may use {_SHARED >> 20} MiB; free some memory")
        )
    except OSError as error:
        out.append(
            _bad(
                "limits",
                f"memfd_create does not work ({error.strerror}): no shared memory lane",
                "allow memfd_create, or run with PAPILIO_TRANSPORT=ucx",
            )
        )
    return out


def _available_memory() -> int:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _shared_limit() -> int:
    """What the control group leaves, if it has a limit."""
    most, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    return int(most) - int(used) if most.isdigit() and used.isdigit() else 1 << 62


def _address(interface: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            request = struct.pack("256s", interface.encode()[:15])
            return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24])
        except OSError:
            return ""


def _route_to(target: str) -> str:
    """Own address on the way there; connecting a datagram socket sends nothing."""
    family, kind, _, _, where = socket.getaddrinfo(target, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(where)
        return probe.getsockname()[0]


def interfaces(wanted: str) -> list:
    """Every interface that is up, and the address that papilio would listen on."""
    out, addresses = [], {}
    for _, name in socket.if_nameindex():
        state, address = _read(f"/sys/class/net/{name}/operstate"), _address(name)
        if not address:
            continue
        addresses[name] = address
        speed = _read(f"/sys/class/net/{name}/speed")
        rate = f", {int(speed) / 1000:g} Gbit/s" if speed.isdigit() else ""
        mtu = _read(f"/sys/class/net/{name}/mtu")
        up = "" if state in ("unknown", "") else f", {state}"  # loopback never knows
        out.append(_ok("interfaces", f"{name}: {address}{up}, mtu {mtu}{rate}"))
    master = os.environ.get("MASTER_ADDR", "")
    if wanted and wanted not in addresses and wanted not in addresses.values():
        out.append(
            _bad(
                "interfaces",
                f"PAPILIO_INTERFACE={wanted!r} is no interface or address here",
                "name one of " + ", ".join(addresses),
            )
        )
    elif wanted:
        out.append(_ok("interfaces", f"listens on {addresses.get(wanted, wanted)} (as told)"))
    elif not master:
        out.append(_ok("interfaces", "listens on 127.0.0.1: MASTER_ADDR is not set"))
    else:
        out.append(_route(master))
    return out


def _route(master: str) -> Line:
    try:
        own = _route_to(master)
    except OSError as error:
        return _bad(
            "interfaces",
            f"no way to the store: MASTER_ADDR={master!r}: {error.strerror}",
            "check name resolution and routes",
        )
    return _ok("interfaces", f"listens on {own}, on the way to MASTER_ADDR={master}")


def devices() -> list:
    """RDMA and GPUs, and what this version does with them."""
    import torch

    out = []
    folder = "/sys/class/infiniband"
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for name in names:
        states = [
            _read(f"{folder}/{name}/ports/{port}/state")
            for port in sorted(os.listdir(f"{folder}/{name}/ports"))
        ]
        out.append(_ok("devices", f"RDMA {name}: port states {', '.join(states)}"))
    if not names:
        out.append(_ok("devices", "no RDMA device: UCX uses TCP between hosts"))
    return out + _gpus(torch.cuda)


def _gpus(cuda) -> list:
    """What collectives on CUDA tensors find; ``cuda``: the module torch.cuda, or like it."""
    if not cuda.is_available():
        return [_ok("devices", "no GPU that torch can use: CPU tensors only")]
    out = [
        _ok("devices", f"GPU {index}: {cuda.get_device_name(index)}")
        for index in range(cuda.device_count())
    ]
    out += [_ok("devices", text) for text in _lanes_of_gpus(cuda)]
    if os.environ.get("CUDA_MODULE_LOADING", "").upper() != "EAGER":
        out.append(
            _ok(
                "devices",
                "CUDA_MODULE_LOADING is not EAGER: the first launch of a kernel may wait for "
                "collectives that are under way",
            )
        )
    return out


def _lanes_of_gpus(cuda) -> list:
    """The way of a CUDA tensor to other GPUs here and to other hosts, and why no faster one."""
    pairs: dict = {True: [], False: []}
    for one, other in itertools.combinations(range(cuda.device_count()), 2):
        pairs[bool(cuda.can_device_access_peer(one, other))].append(f"{one}-{other}")
    out = []
    if pairs[True] or pairs[False]:
        out.append(
            "between GPUs of this host: pinned host memory; with hierarchy='host' and "
            "host_backend='nccl' NCCL adds up on the devices, with host_backend='papilio' "
            + (
                "papilio, in memory that they share"
                if _native.cuda_kernels()
                else "papilio would, but this build has no CUDA kernels"
            )
        )
    if pairs[True]:
        out.append(f"GPUs that reach each other's memory: {', '.join(pairs[True])}")
    if pairs[False]:
        out.append(
            f"GPUs without peer access: {', '.join(pairs[False])}; NCCL goes through the host "
            "there, host_backend='papilio' does not work"
        )
    peer = any(line.startswith("nvidia_peermem") for line in _read("/proc/modules").splitlines())
    out.append(
        "to other hosts: pinned host memory, then UCX; this version registers no memory of devices "
        f"(nvidia_peermem, which that would need, {'is' if peer else 'is not'} loaded)"
    )
    return out


def tools() -> list:
    """What building from source needs; a wheel needs none of it."""
    missing = [name for name in ("cmake", "make", "c++") if shutil.which(name) is None]
    if not missing:
        return []
    return [_ok("tools", f"not here: {', '.join(missing)} (needed only to build from source)")]
