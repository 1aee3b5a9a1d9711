"""What a user asks a group: reports, peers, blacklist, statistics, modes."""

import contextlib

import torch
import torch.distributed as dist

from papilio import _native
from papilio._options import Options
from papilio._reports import Peer, blacklist_entry_from, report_from


def _backend(group=None):
    """The papilio backend behind a process group (None: the default group)."""
    if group is None:
        if not dist.is_initialized():
            raise ValueError("papilio: no process group yet; call init_process_group('papilio')")
        group = dist.group.WORLD
    native = _native.load()
    if isinstance(group, native.Backend):
        return group
    for device in group._device_types:
        try:
            backend = group._get_backend(device)
        except RuntimeError:
            continue
        while hasattr(backend, "wrapped_pg"):
            backend = backend.wrapped_pg
        if isinstance(backend, native.Backend):
            return backend
    raise ValueError(f"papilio: group {group} does not use the papilio backend")


def options(group=None) -> Options:
    """The options that the group runs with, every field filled in."""
    return Options(**_backend(group)._settings.as_dict())


def reports(group=None, last: int = 100) -> list:
    """Reports of the last collectives of this rank, oldest first."""
    if last < 0:
        raise ValueError(f"papilio: last={last} must not be negative")
    return [report_from(raw) for raw in _backend(group)._reports(last)]


def last_report(group=None):
    """Report of the newest finished collective; None when there is none."""
    found = reports(group, last=1)
    return found[0] if found else None


def report(work):
    """Report of one collective from its Work; None while it runs."""
    raw = _native.load().work_report(work)
    return None if raw is None else report_from(raw)


def peers(group=None) -> list:
    """All members as this rank sees them, by rank."""
    return [Peer(**raw) for raw in _backend(group)._peers()]


def blacklist(group=None) -> list:
    """Members whose contributions do not count at present, and why."""
    return [blacklist_entry_from(raw) for raw in _backend(group)._blacklist()]


def _checked_rank(backend, rank: int) -> int:
    if not 0 <= rank < backend.size() or rank == backend.rank():
        raise ValueError(
            f"papilio: rank {rank} is not another member of this group of {backend.size()}"
        )
    return rank


def ban(rank: int, reason: str = "manual", seconds: float | None = None, group=None) -> None:
    """Disregards the rank's contributions for ``seconds`` (None: until ``unban``)."""
    if seconds is not None and seconds <= 0:
        raise ValueError(f"papilio: seconds={seconds} must be positive")
    backend = _backend(group)
    backend._ban(_checked_rank(backend, rank), reason, seconds)


def unban(rank: int, group=None) -> None:
    """Takes the rank off the blacklist, whatever put it there."""
    backend = _backend(group)
    backend._unban(_checked_rank(backend, rank))


def stats(group=None) -> dict:
    """Counters and gauges as nested dicts: ``stats()["rounds"]["complete"]``."""
    backend = _backend(group)
    out: dict = {}
    for flat in (backend._stats(), backend._engine_stats()):
        for name, value in flat.items():
            *path, leaf = name.split(".")
            node = out
            for part in path:
                node = node.setdefault(part, {})
            node[leaf] = node.get(leaf, 0) + value
    return out


def prometheus(group=None) -> str:
    """The same as Prometheus text."""
    backend = _backend(group)
    lines = []
    for flat in (backend._stats(), backend._engine_stats()):
        for name, value in sorted(flat.items()):
            metric = "papilio_" + name.replace(".", "_")
            lines.append(f'{metric}{{group="{backend._group_name}"}} {value:g}')
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def _override(mode: int):
    native = _native.load()
    before = native.set_mode_override(mode)
    try:
        yield
    finally:
        native.set_mode_override(before)


def strict():
    """Context manager: collectives issued inside, by this thread, are strict."""
    return _override(1)


def tolerant():
    """Context manager: floating all-reduces issued inside, by this thread, are tolerant."""
    return _override(2)


def fingerprint(module_or_state_dict) -> str:
    """Hash of names, shapes and dtypes of a model's parameters and buffers; not of their values."""
    import hashlib

    state = module_or_state_dict
    if hasattr(state, "state_dict"):
        state = state.state_dict()
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if isinstance(value, torch.Tensor):
            digest.update(f"{name}|{tuple(value.shape)}|{value.dtype}\n".encode())
        else:
            digest.update(f"{name}|{type(value).__name__}\n".encode())
    return digest.hexdigest()[:32]
