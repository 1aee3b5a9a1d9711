"""Papilio: a torch.distributed backend whose all-reduce always comes back.

``init_process_group("papilio")`` works without importing this package (torch finds it through its
entry point); import it for options, reports and peers.
"""

import atexit
import hashlib
import os

import torch.distributed as dist

from papilio import _events, _glance, _host_backend, _native, _record, _training
from papilio._errors import (
    Aborted,
    DeadlineExceeded,
    Evicted,
    PapilioError,
    PeerFailed,
    QuorumLost,
    SchemaMismatch,
)
from papilio._events import on_event, publish
from papilio._groups import (
    ban,
    blacklist,
    fingerprint,
    last_report,
    options,
    peers,
    prometheus,
    report,
    reports,
    stats,
    strict,
    tolerant,
    unban,
)
from papilio._options import Options, to_settings, warn_unknown_variables
from papilio._reports import BlacklistEntry, Chunk, Event, Peer, Report
from papilio._training import Attachment, attach, rejoin, step_boundary

_native.check_build()

__version__ = "0.1.0"
__all__ = [
    "Aborted",
    "Attachment",
    "BlacklistEntry",
    "Chunk",
    "DeadlineExceeded",
    "Event",
    "Evicted",
    "Options",
    "PapilioError",
    "Peer",
    "PeerFailed",
    "QuorumLost",
    "Report",
    "SchemaMismatch",
    "attach",
    "ban",
    "blacklist",
    "fingerprint",
    "last_report",
    "on_event",
    "options",
    "peers",
    "prometheus",
    "rejoin",
    "report",
    "reports",
    "stats",
    "step_boundary",
    "strict",
    "tolerant",
    "unban",
]


def _meeting_place(dist_options):
    """The store under the names of the group's members.

    torch numbers groups by what each process has created, so that disjoint groups, created by
    different processes, may have one name and one store.
    """
    members = dist_options.global_ranks_in_group
    if not members:  # all ranks
        return dist_options.store
    digest = hashlib.sha256(",".join(map(str, members)).encode()).hexdigest()[:16]
    return dist.PrefixStore(f"papilio-members-{digest}", dist_options.store)


def _settings_of(pg_options, native):
    """What the options say; a ``papilio.Options``, or another group's ``options`` attribute."""
    if isinstance(pg_options, native.Options):
        return pg_options.settings
    if pg_options is None:
        pg_options = Options()
    if not isinstance(pg_options, Options):
        raise TypeError(
            f"papilio: pg_options must be a papilio.Options, got {type(pg_options).__name__}"
        )
    return to_settings(pg_options.validate(), native)


def _create(dist_options, pg_options):
    """Called by torch for every new group (its extended creator interface)."""
    if dist_options.store is None:
        raise ValueError("papilio: a store is needed for the ranks to meet")
    warn_unknown_variables()
    recorder = _record.recorder(dist_options.group_rank)
    native = _native.load()
    settings = _settings_of(pg_options, native)
    name = dist_options.group_id or "world"
    backend = native.create(
        _meeting_place(dist_options),
        dist_options.group_rank,
        dist_options.group_size,
        "world" if name == "0" else name,
        settings,
        dist_options.timeout,
        getattr(dist_options, "enable_reconfigure", False),
        os.environ.get("PAPILIO_REJOIN", "0") not in ("", "0"),
        publish,
        recorder.add if recorder is not None else None,
        _host_backend.maker(settings.as_dict()),
    )
    if recorder is not None:
        recorder.add(backend)
    _glance.start()
    return backend


def _register() -> None:
    """Makes "papilio" known to torch."""
    if "PAPILIO" in dist.Backend._plugins:
        return
    dist.Backend.register_backend("papilio", _create, extended_api=True, devices=["cpu", "cuda"])


@atexit.register
def _shutdown_all() -> None:
    # Interpreter exit without destroy_process_group: end the threads while Python still works.
    _glance.stop()
    _training.stop()
    if _native.load.cache_info().currsize:
        _native.load().shutdown_all()
    _events.flush(timeout=1.0)
    _record.finish()


_register()
