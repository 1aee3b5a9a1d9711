"""Errors of papilio's collectives (all of them are ``torch.distributed.DistBackendError``).

Attributes of every instance: ``ranks`` (tuple of group ranks it names), ``reason`` (``"dead"``,
``"slow"``, ``"schema"``, ...), ``mine`` and ``theirs`` (what was compared, for SchemaMismatch),
``op`` and ``seq`` (which collective). After any of them the user's input tensor is unchanged or
fully written, never torn.
"""

from torch.distributed import DistBackendError


class PapilioError(DistBackendError):
    """Base of the errors below."""

    ranks: tuple = ()
    reason: str = ""
    mine: str = ""
    theirs: str = ""
    op: str = ""
    seq: int = 0


class PeerFailed(PapilioError):
    """A strict collective cannot finish because of the peers in ``ranks``."""


class SchemaMismatch(PapilioError):
    """This rank is in the minority, or in a tie: wrong shape, dtype, op or fingerprint."""


class Evicted(PapilioError):
    """The others went on without this rank."""


class QuorumLost(PapilioError):
    """Fewer than ``min_peers`` members are left."""


class DeadlineExceeded(PapilioError):
    """An explicit or group timeout passed."""


class Aborted(PapilioError):
    """``abort()``, ``shutdown()`` or interpreter exit ended the collective."""
