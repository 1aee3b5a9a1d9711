"""The backend that adds up tensors on devices within a host (Options.host_backend)."""

import datetime
import os
import stat
import tempfile

import torch
import torch.distributed as dist

from papilio import _native


def _meeting_folder() -> str:
    """Of this user, where the ranks of a host meet through files: needs no network and no store,
    whose process may be dead by now."""
    path = os.path.join(tempfile.gettempdir(), f"papilio-{os.getuid()}")
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RuntimeError(
            f"papilio: {path} is not a folder of this user alone; remove it, or set TMPDIR"
        )
    return path


def _require_kernels() -> None:
    """ValueError where there are GPUs, but no kernels for them in this build."""
    if torch.cuda.is_available() and not _native.cuda_kernels():
        raise ValueError(
            "papilio: Options.host_backend='papilio' averages on the GPUs with CUDA kernels, which"
            " this build does not have; install the wheel with CUDA, or leave it empty on all ranks"
        )


def maker(settings: dict):
    """``make(name, key, rank, size)`` for the extension; None when the settings name no backend.

    The timeout that the backend gets is short, because its ranks meet in a thread that issues a
    collective, but longer than papilio waits for a sum: NCCL's own ends the process.
    None also for ``"papilio"``, which is no backend of torch's: the extension does it itself.

    Raises ValueError for a name that torch does not know, and for kernels that are not built in.
    """
    name = settings["host_backend"]
    if name == "papilio":
        _require_kernels()
    if name in ("", "papilio"):
        return None
    dist.Backend._ensure_backend_registered(name)
    known = dist.Backend._plugins
    if name.upper() not in known:
        raise ValueError(
            f"papilio: Options.host_backend={name!r} is not a backend that torch.distributed knows;"
            " with NCCL it is 'nccl'"
        )

    timeout = datetime.timedelta(seconds=max(30.0, 2 * settings["patience"]))

    def make(name: str, key: str, rank: int, size: int):
        plugin = known[name.upper()]
        store = dist.FileStore(os.path.join(_meeting_folder(), key), size)
        if not plugin.extended_api:
            return plugin.creator_fn(store, rank, size, timeout)
        options = dist.distributed_c10d._DistributedBackendOptions()
        options.store = store
        options.group_rank = rank
        options.group_size = size
        options.timeout = timeout
        options.group_id = f"papilio-host-{key}"
        options.global_ranks_in_group = []
        return plugin.creator_fn(options, None)

    return make
