"""Registers, spills and stack of every kernel, from what ptxas printed; exit status 1 for a spill.

tools/cuda_resources.py BUILD_LOG > resources.txt
"""

import re
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(?P<name>\w+)' for '(?P<arch>\w+)'")
FRAME = re.compile(
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads"
)
USED = re.compile(r"Used (?P<registers>\d+) registers")
HEAD = ("kernel", "arch", "registers", "spill bytes", "stack bytes")
# Namespaces, argument lists and the return type say nothing here.
NOISE = re.compile(r"\(anonymous namespace\)::|papilio::cuda::|^void |\(.*\)$")
# A constant of core/codec.hpp, as c++filt prints it.
CODEC = re.compile(r"\(papilio::Codec\)(\d)")
CODECS = ("raw", "bf16", "fp16", "int8")


def kernels(log: str) -> list:
    """Rows (mangled name, arch, registers, spill bytes, stack bytes), as ptxas printed them."""
    rows, name, frame = [], None, None
    for line in log.splitlines():
        if entry := ENTRY.search(line):
            name, frame = entry, None
        elif name and (match := FRAME.search(line)):
            frame = match
        elif name and frame and (match := USED.search(line)):
            spills = int(frame["stores"]) + int(frame["loads"])
            rows.append(
                (name["name"], name["arch"], int(match["registers"]), spills, int(frame["stack"]))
            )
            name = None
    return rows


def readable(names: list) -> list:
    done = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    names = [CODEC.sub(lambda m: CODECS[int(m[1])], name) for name in done.stdout.splitlines()]
    return [NOISE.sub("", name) for name in names]


def table(rows: list) -> str:
    lines = [HEAD, *rows]
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(HEAD))]
    return "\n".join(
        "  ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def main() -> int:
    with open(sys.argv[1], errors="replace") as file:
        rows = kernels(file.read())
    if not rows:
        print(f"{sys.argv[1]}: ptxas printed nothing about any kernel", file=sys.stderr)
        return 1
    names = readable([row[0] for row in rows])
    rows = sorted((name, *row[1:]) for name, row in zip(names, rows, strict=True))
    print(table(rows))
    spilled = [f"{row[0]} on {row[1]}" for row in rows if row[3]]
    if spilled:
        print(f"spills: {', '.join(spilled)}", file=sys.stderr)
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main())
