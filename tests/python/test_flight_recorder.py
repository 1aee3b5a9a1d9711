"""torch's flight recorder knows this backend's collectives, and from torch 2.15 on which ended."""

import json

import pytest
import torch
from cluster import Cluster

TELLS_ENDS = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 15)

RECORDED = """
import json
from torch._C import _distributed_c10d as c10d
if not {tells_ends}:  # later torches attach it to every group by themselves
    recorder = c10d.FlightRecorderHook.attach(dist.group.WORLD)
def dump():
    return json.loads(c10d._dump_fr_trace_json(**{arguments}))["entries"]
store = dist.distributed_c10d._get_default_store()
dist.all_reduce(torch.ones(1000))
(dist.send if rank == 0 else dist.recv)(torch.ones(3), 1 - rank)
tensors = [torch.ones(2), torch.ones(3)]
dist.group.WORLD.allreduce_coalesced(tensors, dist.AllreduceCoalescedOptions()).wait()
until = time.monotonic() + 20
while {tells_ends} and [entry["state"] for entry in dump()] != ["completed"] * 3:
    assert time.monotonic() < until, dump()
if rank == 1:  # rank 0 alone is in the next one when it looks
    store.wait(["looked"])
work = dist.all_reduce(torch.ones(100), async_op=True)
result = dump()
if rank == 0:
    store.set("looked", "")
work.wait()
"""


@pytest.mark.timeout(60)
def test_entries_and_their_states():
    arguments = {"backend": "papilio"} if TELLS_ENDS else {}
    source = RECORDED.format(tells_ends=TELLS_ENDS, arguments=arguments)
    with Cluster(2) as ranks:
        answers = ranks.run(source)
    for rank, entries in enumerate(answers):
        message = ["send", "send 0->1"] if rank == 0 else ["recv", "recv 1<-0"]
        names = [
            ["c10d:allreduce", "papilio:all_reduce"],
            [f"c10d:{message[0]}", f"papilio:{message[1]}"],
            ["c10d:allreduce", "papilio:allreduce_coalesced"],
            ["c10d:allreduce", "papilio:all_reduce"],
        ]
        seen = [entry["profiling_name"] for entry in entries]
        assert seen == [name[TELLS_ENDS] for name in names], json.dumps(entries)
        if TELLS_ENDS:
            states = [entry["state"] for entry in entries]
            assert states[:3] == ["completed"] * 3
            assert rank == 1 or states[3] == "scheduled"
