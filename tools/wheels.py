"""Builds a wheel for every supported torch minor, each in an environment of its own, and tries it.

    .venv/bin/python tools/wheels.py [2.14 2.15]      (make wheels)

For each: build/torch<minor>/build has the pinned packages and builds the wheel in dist/;
build/torch<minor>/use gets that wheel and what it depends on, and runs tests/wheel/program.py under
torchrun, from a folder outside of the repository. Then every wheel is put before the environment of
another minor, where it has to say in one sentence that it does not fit. The exit status is 0 when
all of that held. The first time fetches every torch (3 GB each).
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
RANKS = 3


def uv():
    own = ROOT / "build" / "tools" / "uv" / "bin" / "uv"
    return shutil.which("uv") or str(own)


def run(command, **more):
    done = subprocess.run(
        [str(word) for word in command],
        **{"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | more,
    )
    if done.returncode != 0:
        sys.exit(f"wheels: {command} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def environment(path: pathlib.Path, *packages) -> pathlib.Path:
    """A fresh environment with these packages; its interpreter."""
    run([uv(), "venv", "-q", "--clear", "--python", sys.executable, path])
    python = path / "bin" / "python"
    run([uv(), "pip", "install", "-q", "--python", python, *packages])
    return python


def build(torch: str) -> pathlib.Path:
    lock = ROOT / f"requirements-torch{torch}.lock"
    python = environment(ROOT / "build" / f"torch{torch}" / "build", "-r", lock)
    for old in DIST.glob(f"papilio-*torch{torch}-*.whl"):
        old.unlink()
    run([python, "-m", "build", "--wheel", "--no-isolation", "-o", DIST, ROOT])
    (wheel,) = DIST.glob(f"papilio-*torch{torch}-*.whl")
    return wheel


def check_content(wheel: pathlib.Path) -> None:
    """Our extension alone: a second copy of torch or UCX in a process breaks both. Every module."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    libraries = [name for name in names if ".so" in name]
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "papilio").rglob("*.py")}
    missing = (modules | {"papilio_entry.py"}) - set(names)
    if libraries != ["papilio/_C.so"] or missing:
        sys.exit(f"wheels: {wheel.name} has {names}, lacks {sorted(missing)}")


def use(torch: str, wheel: pathlib.Path) -> pathlib.Path:
    lock = ROOT / f"requirements-torch{torch}.lock"
    python = environment(ROOT / "build" / f"torch{torch}" / "use", wheel, "-c", lock)
    said = outside(python, "-m", "torch.distributed.run", f"--nproc-per-node={RANKS}", "program.py")
    line = next(line for line in said.splitlines() if line.startswith("papilio "))
    if f"torch {torch}." not in line or "site-packages" not in line:
        sys.exit(f"wheels: the wrong papilio or torch: {line}")
    print(f"torch {torch}: {wheel.name} ({wheel.stat().st_size >> 10} KiB)")
    print(f"    {RANKS} ranks under torchrun: {line}")
    return python


def outside(python: pathlib.Path, *arguments, env=None) -> str:
    """Runs it in a folder that has nothing but the program."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "tests" / "wheel" / "program.py", folder)
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return run([python, *arguments], cwd=folder, env=clean | (env or {}), timeout=120)


def refuse(torch: str, python: pathlib.Path, foreign: pathlib.Path) -> None:
    """`foreign` is for another torch: programs without it run, those with it are told why not."""
    with tempfile.TemporaryDirectory() as folder:
        run([uv(), "pip", "install", "-q", "--no-deps", "--target", folder, foreign])
        env = {"PYTHONPATH": folder}
        alone = outside(python, "-c", "import torch; print(torch.ones(2).sum().item())", env=env)
        asked = (
            "try:\n    import papilio\nexcept ImportError as error:\n    print('refused:', error)"
        )
        told = outside(python, "-W", "ignore", "-c", asked, env=env)
    sentence = told.strip()
    right = sentence.startswith("refused: papilio was built for torch ") and "\n" not in sentence
    if not right or torch not in sentence or alone.splitlines()[-1] != "2.0":
        sys.exit(f"wheels: {foreign.name} under torch {torch} said:\n{told}\n{alone}")
    print(f"    with {foreign.name}: {sentence.removeprefix('refused: ')}")


def main():
    every = [
        path.stem.removeprefix("requirements-torch")
        for path in ROOT.glob("requirements-torch*.lock")
    ]
    chosen = sys.argv[1:] or sorted(every)
    if unknown := set(chosen) - set(every):
        sys.exit(f"wheels: no lock file for torch {sorted(unknown)}; there are {sorted(every)}")
    DIST.mkdir(exist_ok=True)
    wheels, pythons = {}, {}
    for torch in chosen:
        print(f"wheels: building for torch {torch}", file=sys.stderr)
        wheels[torch] = build(torch)
        check_content(wheels[torch])
    for torch in chosen:
        pythons[torch] = use(torch, wheels[torch])
        for other in chosen:
            if other != torch:
                refuse(torch, pythons[torch], wheels[other])


if __name__ == "__main__":
    main()
