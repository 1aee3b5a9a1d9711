"""Text output: ASCII, at most 120 columns, `#` in front of everything that is no row."""

import os
import sys
import textwrap
import time

from papilio.bench import environment

_WIDTH = 118
_ROW = "{:>10} {:>10} {:>8} {:>4} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>6} {:>7} {:>7} {:>6}"
_COMPARE = "{:>10} {:>10} {:>12} {:>12} {:>8} {:>17} {:>10}  {}"
MEMORY_LIMIT = 128 << 20  # growth per rank that is still right, bytes beside the tensor


def number(value, digits: int = 1) -> str:
    """Fixed point, fewer digits for large values, `-` for nothing."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1e5 else f"{value:.{digits}f}"


def mib(amount: float) -> str:
    return f"{amount / (1 << 20):.1f} MiB"


def bandwidth(value) -> str:
    """GB/s in 7 columns; small messages move little."""
    if value is None:
        return "-"
    return f"{value:.5f}" if value < 0.1 else f"{value:.3f}"


class Progress:
    """One self-overwriting line on a terminal, else a line every 10 s."""

    def __init__(self, stream=sys.stderr):
        self.stream = stream
        self.tty = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.last = time.monotonic()

    def __call__(self, text: str) -> None:
        if self.tty:
            self.stream.write("\r\x1b[K" + text[:100])
            self.stream.flush()
        elif time.monotonic() - self.last >= 10:
            self.last = time.monotonic()
            print(text, file=self.stream, flush=True)

    def clear(self) -> None:
        if self.tty:
            self.stream.write("\r\x1b[K")
            self.stream.flush()


class Text:
    """Writes header, rows as they come, comparison and footer to ``stream``."""

    def __init__(self, options, facts: dict, stream):
        self.options = options
        self.facts = facts
        self.stream = stream

    def line(self, text: str = "") -> None:
        print(text.rstrip(), file=self.stream, flush=True)

    def comment(self, text: str) -> None:
        for line in textwrap.wrap(text, _WIDTH - 2, subsequent_indent="    "):
            self.line("# " + line)

    def header(self) -> None:
        options, facts = self.options, self.facts
        if not options.quiet:
            self._header_block(options, facts)
        unit = (
            "max over ranks" if options.combine == "max" else f"{options.combine} over ranks"
        ).replace("rank0 over ranks", "rank 0")
        self.comment(f"times in us ({unit}), bandwidth in GB/s (1e9), algbw and busbw of avg")
        head = "size count type op backend avg p50 p95 p99 max cv% algbw busbw #wrong"
        self.line("#" + _ROW.format(*head.split())[1:])

    def _header_block(self, options, facts: dict) -> None:
        host, libraries, git = facts["host"][0], facts["libraries"], facts["git"]
        state = {True: ", changed since", False: "", None: ""}[git["dirty"]]
        self.comment(f"papilio.bench {facts['version']}, commit {git['commit']}{state}")
        self.comment(", ".join(f"{name} {version}" for name, version in libraries.items()))
        self.comment(
            f"{options.ranks} ranks on one host (loopback and shared memory: software overhead, no "
            f"network): {host['name']}, {host['cpus']} CPUs {host['cpu']}, governor "
            f"{host['governor']}, {host['memory_gb']} GB, Linux {host['kernel']}"
        )
        self.comment("clock " + facts["clock"] + f"; device: {options.device}")
        self.comment("options: " + describe(options))
        self.comment(
            "environment: "
            + (" ".join(f"{k}={v}" for k, v in facts["env"].items()) or "nothing set")
        )
        for key, value in options.context.items():
            self.comment(f"context: {key}={value}")
        self.comment(
            "unlike nccl-tests: -a 3 (slowest rank) and -I 1 (per call) by default; p99 needs 100 "
            "calls; -c checks timed calls bit for bit"
        )
        for text in environment.warnings(facts, options):
            self.comment("warning: " + text)
        self.line("#")

    def rows(self, rows: list) -> None:
        for row in rows:
            self._row(row)

    def _row(self, row: dict) -> None:
        stats = row["stats"]
        self.line(
            _ROW.format(
                row["size"],
                row["count"],
                row["type"],
                row["op"],
                row["backend"][:8],
                *(number(stats[k]) for k in ("avg", "p50", "p95", "p99", "max", "cv_percent")),
                bandwidth(stats["algbw"]),
                bandwidth(stats["busbw"]),
                row["wrong"] if row["verified"] else "-",
            )
        )
        if row["masks"]:
            self.comment(
                f"{row['backend']}: wrong sums; contributors recovered from them (rank 0 first): "
                + ", ".join(f"{mask} (~{n} elements)" for mask, n in sorted(row["masks"].items()))
            )
        partial = partial_rounds(row)
        if partial:
            self.comment(f"{row['backend']}: rounds that were not complete, per rank: {partial}")
        if self.options.raw:
            self.comment(" ".join(number(value) for value in row["combined_us"]))

    def comparison(self, comparisons: list) -> None:
        if not comparisons:
            return
        first = comparisons[0]["backend"]
        self.line("#")
        self.comment(
            f"{first} against the others: ratio of p50 times, below 1 = {first} is faster; 95 % "
            "bootstrap interval of the ratio; p: Mann-Whitney U, two-sided"
        )
        head = ("size", "other", f"{first} p50", "other p50", "ratio", "95 %", "p", "")
        self.line("#" + _COMPARE.format(*head)[1:])
        for item in comparisons:
            self.line(
                _COMPARE.format(
                    item["size"],
                    item["other"][:10],
                    number(item["p50"]),
                    number(item["other_p50"]),
                    f"{item['ratio']:.3f}",
                    f"{item['ratio_low']:.3f} .. {item['ratio_high']:.3f}",
                    f"{item['p_value']:.2g}",
                    verdict_of(item),
                )
            )

    def footer(self, bench, seconds: float, verdict: str, colour: bool) -> None:
        self.line("#")
        rows = bench.results
        checked = sum(row["verified"] for row in rows)
        wrong = sum(row["wrong"] for row in rows)
        self.comment(f"wrong elements: {wrong} in {checked} verified calls")
        for name in self.options.backends:
            if rows:
                self._backend_footer(name, bench)
        if not bench.sees_peaks:
            self.comment("memory: /proc/self/clear_refs is not writable, peaks inside calls unseen")
        for item in bench.comparisons[-(len(self.options.backends) - 1) or None :]:
            self.comment(
                f"{item['size'] / (1 << 20):g} MiB: {item['backend']} {item['p50'] / 1e3:.2f} ms, "
                f"{item['other']} {item['other_p50'] / 1e3:.2f} ms (p50 of interleaved calls): "
                f"ratio {item['ratio']:.3f}, {verdict_of(item)}"
            )
        self.comment(f"wall time {seconds:.1f} s")
        if colour:
            code = "32" if verdict.startswith("ok") else "31"
            verdict = f"\x1b[{code}m{verdict}\x1b[0m"
        self.line("# verdict: " + verdict)

    def _backend_footer(self, name: str, bench) -> None:
        rows = [row for row in bench.results if row["backend"] == name]
        bands = [row["stats"]["busbw"] for row in rows if row["stats"]["busbw"] is not None]
        mean = f"{sum(bands) / len(bands):.3f} GB/s" if bands else "-"
        first = rows[0]["first_us"] / 1e3
        self.comment(
            f"{name}: average busbw {mean}; group made in {bench.init_seconds.get(name, 0):.2f} s, "
            f"first call {first:.1f} ms"
        )
        growth = [memory.get(name, {}) for memory in bench.memory]
        growth = [g for g in growth if g]
        if growth:
            peak = max(g["peak"] for g in growth)
            fits = "within" if peak <= MEMORY_LIMIT else "ABOVE"
            self.comment(
                f"{name}: resident memory per rank beside the tensors, worst rank: "
                f"{mib(max(g['init'] for g in growth))} by making the group, then peak "
                f"+{mib(peak)}, kept +{mib(max(g['held'] for g in growth))} "
                f"({fits} {MEMORY_LIMIT >> 20} MiB)"
            )


def verdict_of(item: dict) -> str:
    """ "faster" or "slower" only where interval and test agree."""
    if item["p_value"] < 0.05 and item["ratio_high"] < 1:
        return "faster"
    if item["p_value"] < 0.05 and item["ratio_low"] > 1:
        return "slower"
    return "no clear difference"


def partial_rounds(row: dict) -> dict:
    """Rank -> outcomes other than complete that its backend reported, if any."""
    out = {}
    for rank, rounds in enumerate(row["rounds"]):
        partial = {key: n for key, n in rounds.items() if n and key != "complete"}
        if partial:
            out[rank] = partial
    return out


def describe(options) -> str:
    """All options after defaulting, in the letters of the command line."""
    step = f"-i {options.stepbytes}" if options.stepbytes else f"-f {options.stepfactor or 2.0:g}"
    parts = [
        f"{options.collective} of {options.datatype} {options.op}",
        f"backends {','.join(options.backends)}",
        f"-b {options.minbytes} -e {options.maxbytes} {step}",
        f"-n {options.iters or 'auto'} -w {options.warmup_iters} -K {options.skip}",
        f"-N {options.run_cycles} -c {options.check} -u {options.unalign} -r {options.root}",
        f"-a {options.average} -I {options.per_iteration} -T {options.timeout:g}",
        f"--mode {options.mode} --block {options.block or 'no'} --expect {options.expect} "
        f"--seed {options.seed}",
    ]
    if options.cpus:
        parts.append("--cpu-list " + ",".join(map(str, options.cpus)))
    parts += [f"{name}={value}" for name, value in options.library.items()]
    return ", ".join(parts)
