"""Where and with what a benchmark ran: for the header of every output."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import time

_ENV_PREFIXES = ("UCX_", "GLOO_", "PAPILIO_", "NCCL_", "OMP_", "TORCH_DISTRIBUTED_", "KMP_")
_SECRETS = ("SECRET", "TOKEN", "KEY", "PASSWORD")


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _git(*arguments: str) -> str | None:
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        done = subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit() -> dict:
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if commit is None else bool(changed)}


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def _governor() -> str:
    try:
        with open("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def relevant_variables() -> dict:
    """Variables that change results; never the whole environment, never a secret."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(_ENV_PREFIXES) and not any(word in name.upper() for word in _SECRETS)
    }


def collect() -> dict:
    return {
        "tool": "papilio.bench",
        "version": _version("papilio"),
        "git": _commit(),
        "start": now(),
        "libraries": {
            "papilio": _version("papilio"),
            "torch": _version("torch"),
            "ucx": _version("libucx-cu13"),
            "numpy": _version("numpy"),
            "python": platform.python_version(),
        },
        "host": [
            {
                "name": platform.node(),
                "kernel": platform.release(),
                "cpu": _cpu_model(),
                "cpus": len(os.sched_getaffinity(0)),
                "governor": _governor(),
                "memory_gb": round(_memory_gb(), 1),
                "load": round(os.getloadavg()[0], 2),
            }
        ],
        "env": relevant_variables(),
        "clock": f"CLOCK_MONOTONIC, {time.get_clock_info('monotonic').resolution * 1e9:g} ns",
    }


def warnings(facts: dict, options) -> list:
    """What makes the numbers less trustworthy; told, never enforced."""
    host = facts["host"][0]
    found = []
    if options.ranks > host["cpus"]:
        found.append(
            f"{options.ranks} ranks share {host['cpus']} CPUs: times contain waiting for a CPU"
        )
    if host["governor"] not in ("performance", "unknown"):
        found.append(f"CPU governor is {host['governor']}, not performance")
    if host["load"] > 0.5 * host["cpus"]:
        found.append(f"the machine was busy before the start (load {host['load']})")
    return found
