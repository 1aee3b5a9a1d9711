"""Everything that needs a GPU, on a machine that has one: builds, tests and measures.

    tools/gpu_check.py [--output build/gpu_check.json] [--megabytes 64]      (make gpu-check)

`make cuda` and the device tests, bytes per second of every kernel beside what the memory allows,
and, when torch can use the GPUs, all_reduce of NCCL and of Gloo. The results go into the JSON file.
Exit status 0: all of it ran and the tests passed; 1: something failed; 3: there is no GPU.
"""

import argparse
import contextlib
import ctypes
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
NO_GPU = 3


def gpus() -> tuple[int, str]:
    """How many GPUs the driver shows, and why none when there are none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, "no driver: libcuda.so.1 is missing"
    error = driver.cuInit(0)
    if error != 0:
        return 0, f"the driver's cuInit says error {error}"
    count = ctypes.c_int(0)
    driver.cuDeviceGetCount(ctypes.byref(count))
    return count.value, "the driver shows none"


def run(command: list) -> tuple[int, str]:
    """Exit status and output; what it says on stderr is shown at once."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout


def _reduce(rank: int, n: int, backend: str, port: int, numel: int, queue) -> None:
    import torch
    import torch.distributed as dist

    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=n)
    tensor = torch.ones(numel, device=device)
    seconds = []
    for call in range(15):
        dist.barrier()
        begin = time.perf_counter()
        dist.all_reduce(tensor)
        if backend == "nccl":
            torch.cuda.synchronize()
        if call >= 5:
            seconds.append(time.perf_counter() - begin)
    if rank == 0:
        queue.put(statistics.median(seconds))
    dist.destroy_process_group()


def all_reduce(backend: str, n: int, numel: int) -> dict:
    """Median of ten calls over n processes of this machine."""
    import torch.multiprocessing as mp

    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    mp.spawn(_reduce, args=(n, backend, port, numel, queue), nprocs=n)
    seconds = queue.get()
    return {"backend": backend, "ranks": n, "bytes": numel * 4, "seconds": seconds}


def collectives(count: int, megabytes: int) -> dict:
    import torch

    if not torch.cuda.is_available():
        return {"not_run": f"torch {torch.__version__} can not use the GPU"}
    numel = megabytes * (1 << 20) // 4
    return {
        "torch": torch.__version__,
        "all_reduce": [
            all_reduce("nccl", count, numel),
            all_reduce("gloo", max(count, 2), numel),
        ],
    }


def summary(report: dict) -> str:
    lines = []
    for device in report["kernels"]["devices"]:
        lines.append(
            f"{device['name']}: memory {device['memory_limit'] / 1e9:.0f} GB/s by clock and width, "
            f"copy {device['copy'] / 1e9:.0f} GB/s"
        )
        for row in device["kernels"]:
            lines.append(
                f"  {row['kernel']:38} {row['bytes_per_second'] / 1e9:7.0f} GB/s, "
                f"{row['bytes_per_second'] / device['memory_limit']:4.0%} of the memory's, "
                f"{row['of_copy']:4.0%} of the copy's"
            )
    for row in report["collectives"].get("all_reduce", []):
        lines.append(
            f"{row['backend']} all_reduce of {row['bytes'] >> 20} MiB on {row['ranks']} ranks: "
            f"{row['seconds'] * 1e3:.2f} ms"
        )
    if "not_run" in report["collectives"]:
        lines.append("all_reduce not compared: " + report["collectives"]["not_run"])
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", default=str(ROOT / "build" / "gpu_check.json"))
    parser.add_argument("--megabytes", type=int, default=64)
    arguments = parser.parse_args()
    count, why = gpus()
    if count == 0:
        print(f"gpu-check: no GPU was found ({why}); nothing was built, tested or measured")
        return NO_GPU
    report: dict = {"gpus": count}
    status, _ = run(["tools/build_cuda.sh"])  # builds, and runs the tests
    report["tests_passed"] = status == 0
    if status != 0:
        print("gpu-check: tools/build_cuda.sh failed, see above and build/cuda.log")
    else:
        status, text = run(["build/cuda/cuda_kernel_bench"])
        if status == 0:
            report["kernels"] = json.loads(text)
            report["collectives"] = collectives(count, arguments.megabytes)
            print(summary(report))
    os.makedirs(os.path.dirname(os.path.abspath(arguments.output)), exist_ok=True)
    pathlib.Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n")
    print(f"gpu-check: {'ok' if status == 0 else 'FAILED'}, results in {arguments.output}")
    return 0 if status == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
