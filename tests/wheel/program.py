"""What a user's script does, with an installed wheel: nothing here imports papilio before torch
asks for it. Run under torchrun; see tools/wheels.py."""

import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

if dist.is_backend_available("papilio") is not True:
    sys.exit("torch does not find the backend by its entry point")
dist.init_process_group("papilio")
rank, n = dist.get_rank(), dist.get_world_size()

tensor = torch.full((100_003,), float(rank + 1))
dist.all_reduce(tensor)
assert tensor.unique().tolist() == [n * (n + 1) / 2], tensor

objects = [None] * n
dist.all_gather_object(objects, {"rank": rank})
assert objects == [{"rank": r} for r in range(n)]

torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(64, 8))
model(torch.full((4, 64), float(rank + 1))).sum().backward()
gradient = model.module.weight.grad
assert gradient.unique().tolist() == [4 * (n + 1) / 2], gradient

papilio = sys.modules["papilio"]
report = papilio.last_report()
assert report.outcome == "complete", report
if rank == 0:
    lane = papilio.peers()[1].lane
    where = os.path.dirname(papilio.__file__)
    print(f"papilio {papilio.__version__} torch {torch.__version__} lane {lane} {where}")
dist.destroy_process_group()
