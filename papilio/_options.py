"""``papilio.Options``: what a user may set, where each value comes from, and what is legal."""

import dataclasses
import difflib
import math
import os
import sys
import typing

_PREFIX = "PAPILIO_"
# Variables that are no Options field.
_OTHER_VARIABLES = {
    "PAPILIO_SECRET",
    "PAPILIO_SECRET_FILE",
    "PAPILIO_LOG",
    "PAPILIO_EVENTS_FILE",
    "PAPILIO_REJOIN",
    "PAPILIO_TEST_HOOK",
    "PAPILIO_TEST_DAMAGE",
}
_LOG_LEVELS = ("debug", "info", "warn", "error", "off")


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What a field may hold: one of ``choices``, or a number in ``[low, high]``."""

    choices: tuple = ()
    low: float = -math.inf
    high: float = math.inf

    def describe(self) -> str:
        if self.choices:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        return f"between {self.low:g} and {self.high:g}"

    def allows(self, value) -> bool:
        if self.choices:
            return value in self.choices
        return math.isfinite(value) and self.low <= value <= self.high


# Modes and lanes that this version implements; the others named in the documentation are
# refused with the list of what works.
_RULES = {
    "mode": _Rule(choices=("bounded", "strict")),
    "patience": _Rule(low=0.05, high=3600),
    "fallback": _Rule(choices=("local", "zero")),
    "slow_strikes": _Rule(low=1, high=1000),
    "blacklist_seconds": _Rule(low=0.1, high=3600),
    "min_peers": _Rule(low=1, high=256),
    "quorum": _Rule(choices=("live", "majority")),
    "weight": _Rule(low=0, high=1e9),
    "nonfinite": _Rule(choices=("drop", "propagate")),
    "codec": _Rule(choices=("raw", "bf16", "fp16", "int8")),
    "integrity": _Rule(choices=("payload", "header")),
    "transport": _Rule(choices=("auto", "ucx", "shm")),
    "hierarchy": _Rule(choices=("off", "host")),
    "report_history": _Rule(low=1, high=1_000_000),
}


@dataclasses.dataclass
class Options:
    """Options of one group. ``None`` means: the environment variable, else the default.

    Pass it as ``init_process_group("papilio", pg_options=papilio.Options(patience=2.0))``.
    Seconds are floats; ``validate()`` raises ``ValueError`` naming field, value and allowed range.

    Attributes:
        mode: ``"bounded"`` (floating all-reduces are tolerant) or ``"strict"`` (no partial result).
        patience: seconds of active time a round may wait for a peer behind the median peer.
        fallback: what fills a shard that did not come back, ``"local"`` or ``"zero"``.
        slow_strikes: soft lateness in 10 rounds before a peer is blacklisted.
        blacklist_seconds: first blacklist term for slowness; doubles per relapse.
        min_peers: fewer live members than this raise ``QuorumLost``.
        quorum: who must agree on new members: most of the ``"live"`` ones, or the ``"majority"``.
        weight: this rank's weight in the mean, >= 0.
        fingerprint: any string that must be equal on all ranks.
        nonfinite: ``"drop"`` a minority's NaN/Inf chunks, or ``"propagate"``.
        codec: how gradients travel: ``"raw"``, ``"bf16"``, ``"fp16"`` or ``"int8"``; the same on
            all ranks. float64, strict collectives and less than 256 elements always travel raw.
        integrity: ``"payload"`` (CRC32C of header and payload) or ``"header"``.
        transport: which lanes may be used: ``"auto"`` (shared memory within a host, UCX else),
            ``"ucx"`` or ``"shm"``; the same for all groups of a process.
        interface: network interface or address to listen on; empty: what routes to the store.
        hierarchy: ``"host"``: ranks of one host combine their tensors first, and one of them
            speaks for all in the round; the same on all ranks.
        host_backend: with ``hierarchy="host"``, what adds up tensors on a device within a host:
            ``"papilio"`` in device memory that its ranks share (needs a build with CUDA kernels),
            or a torch.distributed backend, ``"nccl"`` say; empty: host memory, as for CPU tensors.
        report_history: rounds whose reports are kept per group.
    """

    mode: str | None = None
    patience: float | None = None
    fallback: str | None = None
    slow_strikes: int | None = None
    blacklist_seconds: float | None = None
    min_peers: int | None = None
    quorum: str | None = None
    weight: float | None = None
    fingerprint: str | None = None
    nonfinite: str | None = None
    codec: str | None = None
    integrity: str | None = None
    transport: str | None = None
    interface: str | None = None
    hierarchy: str | None = None
    host_backend: str | None = None
    report_history: int | None = None

    def validate(self) -> "Options":
        """Returns these options with every field filled in; raises ValueError for a bad one."""
        filled = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            origin = f"Options.{field.name}"
            if value is None:
                value, origin = _from_environment(field.name)
            filled[field.name] = _checked(field.name, value, origin)
        if filled["host_backend"] and filled["hierarchy"] != "host":
            raise ValueError(
                f"papilio: Options.host_backend={filled['host_backend']!r} needs hierarchy='host',"
                f" which is {filled['hierarchy']!r}"
            )
        return Options(**filled)


_DEFAULTS = {
    "mode": "bounded",
    "patience": 5.0,
    "fallback": "local",
    "slow_strikes": 3,
    "blacklist_seconds": 30.0,
    "min_peers": 1,
    "quorum": "live",
    "weight": 1.0,
    "fingerprint": "",
    "nonfinite": "drop",
    "codec": "raw",
    "integrity": "payload",
    "transport": "auto",
    "interface": "",
    "hierarchy": "off",
    "host_backend": "",
    "report_history": 256,
}
_TYPES = {name: type(value) for name, value in _DEFAULTS.items()}


def _from_environment(name: str) -> tuple[typing.Any, str]:
    variable = _PREFIX + name.upper()
    text = os.environ.get(variable)
    if text is None:
        return _DEFAULTS[name], f"default of {name}"
    return text, variable


def _checked(name: str, value, origin: str):
    kind = _TYPES[name]
    rule = _RULES.get(name)
    wanted = rule.describe() if rule else "a text"
    given = value
    try:
        if kind is str:
            if not isinstance(value, str):
                raise ValueError
        elif isinstance(value, bool):
            raise ValueError
        elif kind is int:
            number = float(value)
            if number != int(number):
                raise ValueError
            value = int(number)
        else:
            value = float(value)
        if rule and not rule.allows(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"papilio: {origin}={given!r} is not allowed; it must be {wanted}"
        ) from None
    return value


def log_level() -> str:
    """Value of PAPILIO_LOG; raises ValueError for an unknown level."""
    level = os.environ.get("PAPILIO_LOG", "warn")
    if level not in _LOG_LEVELS:
        raise ValueError(f"papilio: PAPILIO_LOG={level!r} is not one of {', '.join(_LOG_LEVELS)}")
    return level


def nearest_known(variable: str) -> str | None:
    """The known name nearest to an unknown PAPILIO_* variable; None for a known one."""
    known = {_PREFIX + name.upper() for name in _DEFAULTS} | _OTHER_VARIABLES
    if variable in known:
        return None
    return difflib.get_close_matches(variable, known, n=1, cutoff=0.0)[0]


_warned: set[str] = set()


def warn_unknown_variables() -> None:
    """Names every PAPILIO_* variable that means nothing, once, with the nearest known name."""
    for variable in sorted(os.environ):
        if not variable.startswith(_PREFIX) or variable in _warned:
            continue
        near = nearest_known(variable)
        if near is None:
            continue
        _warned.add(variable)
        print(
            f"papilio: environment variable {variable} is unknown and ignored"
            f"; did you mean {near}?",
            file=sys.stderr,
        )


def to_settings(options: Options, native):
    """The C++ form of validated options; ``native`` is the extension module."""
    settings = native.Settings()
    settings.fingerprint = options.fingerprint
    settings.interface = options.interface
    settings.transport = options.transport
    settings.log_level = log_level()
    settings.hierarchy = options.hierarchy
    settings.host_backend = options.host_backend
    settings.report_history = options.report_history
    settings.set_mode(options.mode == "strict")
    settings.set_patience(options.patience)
    settings.set_fallback_zero(options.fallback == "zero")
    settings.set_slow_strikes(options.slow_strikes)
    settings.set_blacklist_seconds(options.blacklist_seconds)
    settings.set_quorum_majority(options.quorum == "majority")
    settings.set_min_peers(options.min_peers)
    settings.set_weight(options.weight)
    settings.set_nonfinite_propagate(options.nonfinite == "propagate")
    settings.set_codec(options.codec)
    settings.set_payload_crc(options.integrity == "payload")
    return settings


def to_native(options: Options):
    """The form in which torch hands options to a group that is split from another."""
    from papilio import _native

    native = _native.load()
    return native.Options(to_settings(options.validate(), native))
