"""A small byte-level GPT trained with plain DistributedDataParallel on the Python standard library.

    python -m papilio.run -n 4 examples/train_gpt.py --steps 100
    torchrun --nproc-per-node 4 examples/train_gpt.py --backend gloo

There is no fault-tolerance code in here. `--config FILE` holds hyper-parameters as JSON that may be
edited while the job runs; a new width rebuilds the model, as people do when they experiment.
"""

import argparse
import json
import os
import pathlib
import sysconfig
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

CONTEXT = 64  # bytes
BATCH = 8  # sequences per rank and step


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, w = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, w // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, w))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Bytes in, logits of the next byte out: (batch, time) -> (batch, time, 256)."""

    def __init__(self, width=128, layers=2, heads=4):
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, x):
        h = self.bytes(x) + self.places(torch.arange(x.shape[1]))
        return self.head(self.norm(self.blocks(h)))


def corpus(limit=4 << 20):
    """The standard library's own sources, as bytes."""
    text = bytearray()
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_bytes()
        if len(text) > limit:
            break
    return torch.frombuffer(text, dtype=torch.uint8)


def batch(data, generator):
    starts = torch.randint(len(data) - CONTEXT - 1, (BATCH,), generator=generator)
    rows = torch.stack([data[s : s + CONTEXT + 1] for s in starts.tolist()]).long()
    return rows[:, :-1], rows[:, 1:]


def build(width, first):
    torch.manual_seed(0)  # the same start on every rank
    model = DistributedDataParallel(GPT(width), init_sync=first)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def width_of(options):
    if options.config is None:
        return options.width
    return json.loads(pathlib.Path(options.config).read_text()).get("width", options.width)


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="papilio")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--config", help="JSON file with hyper-parameters, read at every step")
    parser.add_argument("--log", help="write one JSON line per step to LOG.<rank>.jsonl")
    return parser.parse_args()


def main():
    options = parse()
    torch.set_num_threads(1)
    dist.init_process_group(options.backend)
    rank = dist.get_rank()
    if options.config is not None:
        options.config = options.config.format(rank=rank)
    data = corpus()
    generator = torch.Generator().manual_seed(1000 + rank)
    width = width_of(options)
    model, optimizer = build(width, first=True)
    log = open(f"{options.log}.{rank}.jsonl", "w", buffering=1) if options.log else None
    for step in range(options.steps):
        start = time.time()
        if width_of(options) != width:
            width = width_of(options)
            model, optimizer = build(width, first=False)
        inputs, targets = batch(data, generator)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds = time.time() - start
        if log:
            print(
                json.dumps({"step": step, "loss": loss.item(), "start": start, "seconds": seconds}),
                file=log,
            )
        if rank == int(os.environ.get("PRINT_RANK", "1")) and step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {seconds * 1e3:.0f} ms", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
