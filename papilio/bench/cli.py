"""Reads and checks the command line of the benchmark."""

import os
import random

from papilio.bench import patterns
from papilio.bench.flags import MOST_CALLS, UsageError, build_parser

_TYPE_NAMES = {
    "float32": "float",
    "float64": "double",
    "float16": "half",
    "bf16": "bfloat16",
    "fp16": "half",
    "int": "int32",
}
_OPS = ("sum", "prod", "min", "max", "avg")
_COMBINE = ("rank0", "avg", "min", "max")


def _one_of(flag: str, value: str, allowed) -> str:
    if value not in allowed:
        raise UsageError(f"{flag} {value!r} is not one of {', '.join(allowed)}")
    return value


def _backends(options) -> list:
    if options.backend and options.interleave:
        raise UsageError("--backend and --interleave exclude each other")
    text = options.interleave or options.backend or "papilio"
    names = [name.strip().lower() for name in text.split(",")]
    if options.interleave and len(names) < 2:
        raise UsageError("--interleave wants at least two backends, e.g. papilio,gloo")
    if options.backend and len(names) != 1:
        raise UsageError("--backend names one backend; use --interleave for several")
    if "" in names or len(set(names)) != len(names):
        raise UsageError(f"{text!r} names an empty or repeated backend")
    return names


def _sizes(options) -> list:
    begin, end = options.minbytes, options.maxbytes
    if begin > end:
        raise UsageError(f"-b {begin} is larger than -e {end}")
    if options.stepbytes is not None and options.stepfactor is not None:
        raise UsageError("-i and -f exclude each other")
    if options.stepbytes == 0:
        raise UsageError("-i 0 never reaches the last size")
    factor = options.stepfactor or 2.0
    sizes, size = [], begin
    while size <= end:
        sizes.append(size)
        if options.stepbytes:
            size += options.stepbytes
        else:
            size = max(int(size * factor), size + 1)
    if len(sizes) > 10_000:
        raise UsageError(f"{len(sizes)} sizes are too many; choose a larger step")
    return sizes


def _cpus(text: str | None) -> list:
    if not text:
        return []
    cpus: list = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            cpus += range(int(first), int(last or first) + 1)
    except ValueError:
        raise UsageError(f"--cpu-list {text!r} is not like 0,1 or 0-3") from None
    unusable = set(cpus) - os.sched_getaffinity(0)
    if unusable or not cpus:
        raise UsageError(f"--cpu-list {text!r}: CPUs {sorted(unusable)} may not be used here")
    return cpus


def _mode(options) -> str:
    options.planned = [*options.faults, *options.stragglers]
    if options.mode is None:
        return "streaming" if options.planned else "isolated"
    if options.planned and options.mode == "isolated":
        raise UsageError(
            "--mode isolated brings the ranks together before each call, which hides "
            "faults; leave it out with --fault and --straggler"
        )
    return _one_of("--mode", options.mode, ("isolated", "streaming"))


def _check_block(options) -> None:
    if options.block is None:
        return
    if options.mode != "streaming" or options.planned:
        raise UsageError("--block wants --mode streaming, and neither --fault nor --straggler")


def _check_faults(options) -> None:
    if not options.planned:
        if options.call_timeout is not None:
            raise UsageError("--call-timeout is for runs with --fault or --straggler")
        return
    hit = {item.rank for item in options.planned}
    for item in options.planned:
        if item.rank >= options.ranks:
            raise UsageError(f"{item.spec!r}: there is no rank {item.rank} of {options.ranks}")
    if len(hit) == options.ranks:
        raise UsageError("nothing is left to measure: something is planned for every rank")
    for fault in options.faults:
        if options.iters is not None and fault.call >= options.iters:
            raise UsageError(f"{fault.spec!r} is after the last of -n {options.iters} calls")
        if options.iters is None and fault.call >= MOST_CALLS:
            raise UsageError(f"{fault.spec!r}: without -n there are at most {MOST_CALLS} calls")
    for flag, value in (("--gate", options.gate), ("-K", options.skip or None)):
        if value is not None:
            raise UsageError(f"{flag} has no meaning with --fault or --straggler")
    if options.call_timeout is None:
        options.call_timeout = options.timeout / 4


def _library_options(options) -> dict:
    """papilio.Options fields that were given, checked by papilio itself."""
    given = {
        "patience": options.deadline,
        "min_peers": options.min_peers,
        "transport": options.transport,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if "papilio" in options.backends:
        from papilio._options import Options

        try:
            Options(**given).validate()
        except ValueError as error:
            raise UsageError(str(error)) from None
    elif given:
        raise UsageError(
            f"{', '.join(given)}: options of the backend papilio, which is not measured"
        )
    return given


def parse(arguments):
    """Namespace with everything filled in; UsageError (or SystemExit for --help)."""
    options = build_parser().parse_args(arguments)
    from papilio.bench.cases import COLLECTIVES

    options.collective = _one_of(
        "--collective", options.collective.replace("allreduce", "all_reduce"), COLLECTIVES
    )
    options.datatype = _one_of(
        "-d", _TYPE_NAMES.get(options.datatype, options.datatype), tuple(patterns.BITS)
    )
    _one_of("-o", options.op, _OPS)
    options.mode = _mode(options)
    _one_of("--expect", options.expect, ("full", "degraded"))
    if not options.modules:  # which may bring devices of their own
        _one_of("--device", options.device, ("cpu", "cuda"))
    if options.op == "avg" and options.datatype.lstrip("u").startswith("int"):
        raise UsageError(f"-o avg is not defined for {options.datatype}")
    if options.root >= options.ranks:
        raise UsageError(f"-r {options.root} is no rank of {options.ranks}")
    if options.iters is not None and options.skip >= options.iters:
        raise UsageError(f"-K {options.skip} leaves nothing of -n {options.iters}")
    if options.skip >= 31 and options.iters is None:
        raise UsageError("-K with the automatic number of calls must be below 31; give -n")
    _check_block(options)
    _check_faults(options)
    options.backends = _backends(options)
    if options.gate is not None and len(options.backends) < 2:
        raise UsageError("--gate compares two backends; give --interleave")
    options.sizes = [0] if options.collective == "barrier" else _sizes(options)
    options.cpus = _cpus(options.cpu_list)
    options.combine = _COMBINE[options.average]
    options.library = _library_options(options)
    options.context = dict(options.context)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    if {"RANK", "WORLD_SIZE"} <= set(os.environ):
        raise UsageError("it starts its ranks itself (--ranks): run it without torchrun")
    return options
