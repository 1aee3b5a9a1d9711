"""A small byte-level GPT trained with plain DistributedDataParallel on the Python standard library.

    python -m papilio.run -n 4 examples/train_gpt.py --steps 200
    torchrun --nproc-per-node 4 examples/train_gpt.py
    torchrun --nproc-per-node 4 examples/train_gpt.py --backend gloo

There is no fault-tolerance code in here. ``--config FILE`` names a JSON file with hyper-parameters
that may be edited while the job runs: a new ``lr`` (the highest learning rate) counts from the next
step, a new ``width`` rebuilds the model, as people do when they experiment. ``{rank}`` in the name
is filled in.
"""

import argparse
import json
import pathlib
import sysconfig
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

CONTEXT = 64  # bytes that the model sees
BATCH = 8  # sequences per rank and step
HELD_OUT = 48  # sequences that nobody trains on


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
    """The standard library's own sources as bytes: (training text, held-out text)."""
    text = bytearray()
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_bytes()
        if len(text) > limit:
            break
    data = torch.frombuffer(text, dtype=torch.uint8)
    return data[: len(data) * 15 // 16], data[len(data) * 15 // 16 :]


def batch(data, starts):
    rows = torch.stack([data[s : s + CONTEXT + 1] for s in starts]).long()
    return rows[:, :-1], rows[:, 1:]


def random_batch(data, generator):
    return batch(data, torch.randint(len(data) - CONTEXT, (BATCH,), generator=generator).tolist())


def loss_of(model, inputs, targets):
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


@torch.no_grad()
def held_out_loss(model, data):
    """Mean loss in nats per byte over sequences spread evenly over the held-out text."""
    starts = range(0, len(data) - CONTEXT, (len(data) - CONTEXT) // HELD_OUT)[:HELD_OUT]
    return loss_of(model.module, *batch(data, starts)).item()


def schedule(step, steps):
    """Share of the learning rate: up in 20 steps, then down in a line."""
    return min(1, (step + 1) / 20) * (1 - step / steps)


class Trainer:
    """Model and optimizer as the hyper-parameters say."""

    def __init__(self, options):
        self.options = options
        self.settings = self.read_settings()
        self.build(first=True)

    def read_settings(self):
        settings = {"width": self.options.width, "lr": self.options.lr}
        if self.options.config is not None:
            settings |= json.loads(pathlib.Path(self.options.config).read_text())
        return settings

    def build(self, first):
        torch.manual_seed(0)  # the same start on every rank
        self.model = DistributedDataParallel(GPT(self.settings["width"]), init_sync=first)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.settings["lr"])

    def apply_edits(self):
        settings = self.read_settings()
        if settings == self.settings:
            return
        print(f"new hyper-parameters: {self.settings} -> {settings}", flush=True)
        rebuild = settings["width"] != self.settings["width"]
        self.settings = settings
        if rebuild:
            self.build(first=False)

    def step(self, number, inputs, targets):
        rate = self.settings["lr"] * schedule(number, self.options.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(self.model, inputs, targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--backend", default="papilio")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=128, help="a multiple of 4")
    parser.add_argument("--lr", type=float, default=2e-3, help="its peak")
    parser.add_argument("--config", help="JSON file with width or lr, read at every step")
    parser.add_argument("--evaluate", type=int, default=25, metavar="K", help="every K steps")
    parser.add_argument("--metrics", help="write one JSON line per step to METRICS.<rank>.jsonl")
    return parser.parse_args()


def main():
    options = parse()
    torch.set_num_threads(1)
    dist.init_process_group(options.backend)
    rank = dist.get_rank()
    if options.config is not None:
        options.config = options.config.replace("{rank}", str(rank))
    training_text, held_out = corpus()
    generator = torch.Generator().manual_seed(1000 + rank)
    trainer = Trainer(options)
    log = open(f"{options.metrics}.{rank}.jsonl", "w", buffering=1) if options.metrics else None  # noqa: SIM115
    for step in range(options.steps):
        start, clock = time.time(), time.monotonic()
        trainer.apply_edits()
        loss = trainer.step(step, *random_batch(training_text, generator))
        record = {"step": step, "loss": loss, "start": start, "seconds": time.monotonic() - clock}
        if (step + 1) % options.evaluate == 0 or step + 1 == options.steps:
            record["held_out"] = held_out_loss(trainer.model, held_out)
            print(
                f"step {step}: loss {loss:.3f}, held-out {record['held_out']:.3f}, "
                f"{record['seconds'] * 1e3:.0f} ms",
                flush=True,
            )
        if log:
            print(json.dumps(record), file=log)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
