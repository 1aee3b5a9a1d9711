"""A training that one of its ranks leaves and comes back to.

    python -m papilio.run -n 4 --restarts 2 examples/train_restarts.py

Rank 2 kills itself at step 100; the launcher restarts it, and it comes back with the state of the
others. At the end all ranks print the same checksum.
"""

import os
import signal
import time
import zlib

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import papilio

STEPS = 1500
DIES = {100: 2}  # step: rank


def batch(step: int, rank: int) -> torch.Tensor:
    """Data by step and rank alone: a restarted rank goes on where the job is."""
    generator = torch.Generator().manual_seed(step * 1009 + rank)
    return torch.randn(32, 64, generator=generator)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("papilio")
    rank = dist.get_rank()
    model = DistributedDataParallel(
        torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64))
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    job = papilio.attach(model, optimizer)
    restarted = os.environ.get("PAPILIO_REJOIN") == "1"
    while job.step < STEPS:
        if DIES.get(job.step) == rank and not restarted:
            os.kill(os.getpid(), signal.SIGKILL)
        data = batch(job.step, rank)
        loss = (model(data) - data.flip(1)).square().mean()
        loss.backward()
        time.sleep(0.01)  # stands for a bigger model
        alone = not job.joined
        optimizer.step()
        optimizer.zero_grad()
        if alone and job.joined:
            print(f"is back at step {job.step}", flush=True)
        if rank == 0 and job.step % 250 == 0:
            print(f"step {job.step} loss {loss.item():.4f}", flush=True)
    checksum = 0
    for parameter in model.parameters():
        checksum = zlib.crc32(parameter.detach().numpy().tobytes(), checksum)
    print(f"step {job.step}: parameters {checksum:08x}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
