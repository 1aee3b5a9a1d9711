"""The ranks of one chaos case, with the hooks that hold its victims, and the store they meet at."""

import os
import select
import tempfile

import torch.distributed as dist
from cluster import Rank, free_port
from hook import Hook

HERE = os.path.dirname(os.path.abspath(__file__))
TIMEOUT = 60.0  # of the group: a call that has not returned by then is a hang


class Job:
    """``store``: "outside" (of all ranks), "process" (one of its own, ``store_rank``), "rank0".

    ``network``: each rank on a host of its own there; the store is at its switch.
    """

    def __init__(
        self,
        n: int,
        plan,
        options: dict,
        store="outside",
        network=None,
        fault=None,
        backend="papilio",
    ):
        self.n = n
        self.backend = backend
        self.network = network
        self.options = options
        self.own = fault.own if fault else {}  # options by rank
        self.ranks: list = []
        self.hooks: dict = {}
        self.store_rank = None
        self.store = None  # only if it is outside
        self._environments: list = []
        self._folder = tempfile.TemporaryDirectory(prefix="papilio-chaos-")
        address, port = self._open_store(store, network)
        # The cases say themselves which PAPILIO_* variables count.
        ours = {k: v for k, v in os.environ.items() if not k.startswith("PAPILIO_")}
        environment = ours | {
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(n),
            "TORCHELASTIC_USE_AGENT_STORE": "False" if store == "rank0" else "True",
        }
        for victim, phase in plan.hooks.items():
            self.hooks[victim] = Hook(self._folder.name, victim, phase, plan.round)
        for rank in range(n):
            mine = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            if network:
                mine["TEST_NETWORK"] = network.hosts[rank]
            self._environments.append(environment | mine)
            faulty = fault.environments.get(rank, {}) if fault else {}
            if rank in self.hooks:
                faulty = faulty | self.hooks[rank].environment
            self.ranks.append(Rank(rank, environment | mine | faulty))

    def _open_store(self, kind: str, network) -> tuple:
        if kind == "rank0":
            return "127.0.0.1", free_port()
        if kind == "process":
            self.store_rank = Rank(-1, os.environ | {"RANK": "0", "WORLD_SIZE": "1"})
            port = self.store_rank.run(
                "import builtins\n"
                "builtins.store = dist.TCPStore('127.0.0.1', 0, is_master=True,"
                " wait_for_workers=False)\n"
                "result = builtins.store.port"
            )
            return "127.0.0.1", port
        address = network.gateway if network else "127.0.0.1"

        def make():
            return dist.TCPStore(address, 0, is_master=True, wait_for_workers=False)

        self.store = network.inside(make) if network else make()
        return address, self.store.port

    def __enter__(self):
        try:
            for rank in self.ranks:
                self._init(rank)
            for rank in self.ranks:
                answer = rank.receive(timeout=90)
                assert answer["ok"], answer
            for rank, hook in self.hooks.items():
                self.ask(rank, f"obey({hook.path!r})")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _init(self, rank: Rank) -> None:
        options = self.options | self.own.get(rank.rank, {})
        rank.send("init", options=options, timeout=TIMEOUT, backend=self.backend)

    def restart(self, rank: int) -> None:
        """A new process, with nothing wrong in it, in the slot of one that has ended."""
        self.ranks[rank].end()
        self.ranks[rank] = Rank(rank, self._environments[rank] | {"PAPILIO_REJOIN": "1"})
        self._init(self.ranks[rank])
        answer = self.ranks[rank].receive(timeout=90)
        assert answer["ok"], answer

    def __exit__(self, *_):
        for rank in self.ranks:
            rank.end()
        if self.store_rank:
            self.store_rank.end()
        for hook in self.hooks.values():
            hook.close()
        self._folder.cleanup()

    def begin(self, rank: int, call: str, module: str = "rank_side") -> None:
        """Starts the function call of that module of this folder there."""
        source = f"import sys; sys.path.insert(0, {HERE!r}); import {module}\n"
        self.ranks[rank].send("collective", source=source + f"result = {module}.{call}")

    def end(self, rank: int, timeout: float = TIMEOUT + 30):
        answer = self.ranks[rank].receive(timeout)
        assert answer["ok"], answer.get("trace", answer)
        return answer["result"]

    def ask(self, rank: int, call: str, module: str = "rank_side"):
        self.begin(rank, call, module)
        return self.end(rank)

    def together(self, ranks, call: str, module: str = "rank_side") -> dict:
        for rank in ranks:
            self.begin(rank, call, module)
        return {rank: self.end(rank) for rank in ranks}

    def ended(self, rank: int, timeout: float) -> int | None:
        """Exit status; None: it runs on."""
        pidfd = os.pidfd_open(self.ranks[rank].pid)
        try:
            if not select.select([pidfd], [], [], timeout)[0]:
                return None
        finally:
            os.close(pidfd)
        return self.ranks[rank].wait()
