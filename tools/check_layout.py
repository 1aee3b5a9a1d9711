"""Checks what no compiler checks: purity of the core rooms, include arrows, file sizes, leftovers.

    tools/check_layout.py          # one line per finding, exit status 1 when there is any

Works on a plain copy of the tree, without git.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("csrc", "cuda", "papilio", "tests", "bench", "examples", "tools", "cmake", "docs", ".ci")
SOURCE = {".hpp", ".cpp", ".cu", ".cuh", ".py", ".sh", ".cmake", ".md", ".txt", ".toml", ".json"}
CODE = {".hpp", ".cpp", ".cu", ".cuh", ".py", ".sh", ".cmake"}
MAX_LINES = 500

# Which room's headers a room may include: the arrows of docs/architecture.md.
LANE_INTERFACES = {"engine/transport.hpp", "engine/control_plane.hpp"}
VALUES = {"fault/options.hpp", "fault/report.hpp"}
ARROWS = {
    "core": {"core"},
    "fault": {"core", "fault"},
    "engine": {"core", "fault", "engine"},
    "ucx_transport": {"core", "ucx_transport"} | LANE_INTERFACES,
    "control": {"core", "control"} | LANE_INTERFACES,
    "shm_transport": {"core", "shm_transport"} | LANE_INTERFACES,
    "device_lane": {"core", "device_lane", "shm_transport/sealed_memory.hpp"},
    "process_group": {"core", "engine", "ucx_transport", "control", "shm_transport", "device_lane"}
    | {"process_group", "cuda/cuda_memory.hpp"}
    | VALUES,
    "cuda": {"core", "cuda", "device_lane/device_memory.hpp"},
}
# Libraries that belong to one room.
OWNERS = {
    "torch": {"process_group"},
    "c10": {"process_group"},
    "ATen": {"process_group"},
    "pybind11": {"process_group"},
    "ucp": {"ucx_transport"},
    "uct": {"ucx_transport"},
    "ucs": {"ucx_transport"},
    "asio": {"control"},
    "asio.hpp": {"control"},
    "openssl": {"control"},
    "cuda_runtime.h": {"cuda"},
    "cuda_runtime_api.h": {"cuda"},
}
# The core rooms: the standard library without clocks, threads, randomness, files and sockets.
PURE_ROOMS = {"core", "fault"}
PURE_EXTRA = {"immintrin.h", "nmmintrin.h"}  # CRC instructions
IMPURE_HEADERS = {
    "atomic", "barrier", "condition_variable", "coroutine", "ctime", "csignal", "filesystem",
    "fstream", "future", "iostream", "latch", "mutex", "random", "semaphore", "shared_mutex",
    "stop_token", "syncstream", "thread", "unordered_map", "unordered_set",
}  # fmt: skip
IMPURE_WORDS = re.compile(
    r"\bnow\(\)|::now\b|\bsleep|\bgetenv\b|\brand\(|random_device|unordered_|"
    r"(?:steady|system|high_resolution)_clock|\bmutex\b|\bthread_local\b|std::thread|std::atomic"
)
LEFTOVERS = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:home|root|work|Users|mnt)/")
# A test neither sleeps nor hides a hole.
TEST_HOLES = re.compile(
    r"\btime\.sleep\(|from time import .*sleep|\bsleep_(?:for|until)\(|\busleep\(|nanosleep|"
    r"xfail|pytest\.skip|mark\.skip|\bskipif\b|importorskip|unittest\.skip|GTEST_SKIP|\bDISABLED_"
)
# (file, word) -> why it is all right there.
ALLOWED = {
    ("tests/python/cluster.py", "time.sleep("): "polls real processes, always with a deadline",
    ("tests/python/test_run.py", "time.sleep("): "polls with a deadline; keeps two signals apart",
    (
        "tests/python/test_ddp.py",
        "time.sleep(",
    ): "stretches training so that a kill hits its middle",
    ("tests/python/test_reconfigure.py", "time.sleep("): "polls the rank's state with a deadline",
    ("tests/python/test_peers.py", "time.sleep("): "the computing of the ranks, which is measured",
    ("tests/python/test_top.py", "time.sleep("): "the computing of the ranks, which is looked at",
    ("tests/python/test_teardown.py", "time.sleep("): "a collective is to hang for a while",
    ("tests/engine/faults_test.cpp", "sleep_until("): "how long the frozen rank stays frozen",
    ("tests/engine/loop_test.cpp", "sleep_for("): "the time over which idle cost is measured",
    ("tests/engine/pieces_test.cpp", "sleep_for("): "the stop that the clock is to notice",
    (
        "tests/process_group/fake_device/streams.cpp",
        "sleep_for(",
    ): "disturbs the order of what is not ordered",
}


def files(root: pathlib.Path):
    """Text files of the project, relative to `root`."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix in SOURCE:
                yield path.relative_to(root)
    for path in sorted(root.iterdir()):
        if path.is_file() and (path.suffix in SOURCE or path.name == "Makefile"):
            yield path.relative_to(root)


def room_of(path: pathlib.PurePath) -> str | None:
    """The room that a file belongs to: a folder of csrc, or cuda/."""
    if path.parts[0] == "csrc" and len(path.parts) > 2:
        return path.parts[1]
    return "cuda" if path.parts[0] == "cuda" else None


def check_includes(room: str, lines: list):
    arrows = ARROWS.get(room)
    if arrows is None:
        yield 1, f"room '{room}' is not in the room table of tools/check_layout.py"
        return
    for number, line in enumerate(lines, 1):
        match = re.match(r'#\s*include\s*([<"])([^>"]+)[>"]', line)
        if not match:
            continue
        name = match[2]
        top = name.split("/")[0]
        if match[1] == '"':
            if top not in arrows and name not in arrows:
                yield number, f"{room} must not include {name}"
        elif top in OWNERS and room not in OWNERS[top]:
            yield number, f"{room} must not see {name}"
        elif room in PURE_ROOMS and (
            name in IMPURE_HEADERS or (("." in name or "/" in name) and name not in PURE_EXTRA)
        ):
            yield number, f"{room} is pure: no <{name}>"


def check_purity(lines: list):
    for number, line in enumerate(lines, 1):
        code = "" if line.startswith("#include") else line.split("//")[0]
        if match := IMPURE_WORDS.search(code):
            yield number, f"a core room is pure: no '{match[0].strip()}'"


def check_test(path: str, lines: list, allowed: dict):
    for number, line in enumerate(lines, 1):
        match = TEST_HOLES.search(line)
        if match and (path, match[0]) not in allowed:
            yield number, f"'{match[0]}' in a test; allowed only with a reason in check_layout.py"


def check_file(path: pathlib.PurePath, text: str, allowed: dict):
    """Findings (line, text) of one file; `path` is relative to the root, with forward slashes."""
    lines = text.splitlines()
    if path.suffix in CODE and len(lines) > MAX_LINES:
        yield len(lines), f"{len(lines)} lines; the limit is {MAX_LINES}"
    this_tool = path.as_posix() in ("tools/check_layout.py", "tests/python/test_layout.py")
    for number, line in enumerate(lines, 1):
        if not this_tool and (match := LEFTOVERS.search(line)):
            yield number, f"left over: {match[0]}"
        if not this_tool and (match := MACHINE_PATH.search(line)):
            yield number, f"path of one machine: {match[0]}"
        if line != line.rstrip() and path.suffix != ".md":
            yield number, "space at the end of the line"
    if room := room_of(path):
        yield from check_includes(room, lines)
        if room in PURE_ROOMS:
            yield from check_purity(lines)
    if path.parts[0] == "tests" and not this_tool:
        yield from check_test(path.as_posix(), lines, allowed)


def check_links(root: pathlib.Path, path: pathlib.PurePath, text: str):
    """Relative links of a Markdown file must lead somewhere inside the repository."""
    for number, line in enumerate(text.splitlines(), 1):
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            if target.startswith(("http://", "https://", "#", "mailto:")):
                continue
            found = (root / path).parent / target.split("#")[0]
            if not found.exists() or not found.resolve().is_relative_to(root.resolve()):
                yield number, f"link leads nowhere: {target}"


def findings(root: pathlib.Path = ROOT, allowed: dict | None = None) -> list:
    allowed = ALLOWED if allowed is None else allowed
    out = []
    for path in files(root):
        text = (root / path).read_text(errors="replace")
        found = list(check_file(path, text, allowed))
        if path.suffix == ".md":
            found += check_links(root, path, text)
        out += [f"{path.as_posix()}:{number}: {what}" for number, what in found]
    return out


def main() -> int:
    found = findings()
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
