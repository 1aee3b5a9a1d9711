"""Training that outlives restarts: ``attach``, ``step_boundary``, ``rejoin``."""

import collections

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from papilio._errors import PeerFailed
from papilio._groups import _backend
from papilio._membership import Membership
from papilio._state import Snapshot
from papilio._transfer import MOST_DONORS, Donor, receive

_NOBODY = 2**63 - 1  # in the table of digests: no word from that slot
_LACKS = -1  # that rank has no state of its own yet
_TRIES = 8  # of comparing the replicas; each member that dies during one costs one
# DDP regroups its buckets in the second step, with a collective that the others do not call.
_DDP_STEPS_ALONE = 2

_attached: dict = {}  # by the number of the group's backend in this process


class Attachment:
    """A model and its optimizer in a group whose members may be restarted. See ``attach()``.

    Attributes:
        step: finished steps of the whole job; the same on all members. A restarted rank has 0
            until it is let in, and then the number that the others have.
        states_received: how often this rank took over the others' state: when it was let in, and
            when members changed after its replica had drifted (local values in some rounds).
        joined: False on a restarted rank that still trains alone (its values do not count).
    """

    def __init__(self, model, optimizers, others, group, wait):
        self.step = 0
        self.states_received = 0
        self._model = model
        self._optimizers = optimizers
        self._others = others
        self._wait = wait
        self._backend = _backend(group)
        self._steps_alone = 0
        self._donors: list = []
        self._state()  # refuses what cannot be handed over, before it matters
        if self._backend._store is None:
            raise ValueError(
                "papilio: attach() is for a group made by init_process_group or new_group; one "
                "that was split, shrunk or merged has no store to meet at"
            )
        self._backend._train_alone()
        self._membership = Membership(self._backend, self._bring_together)

    @property
    def joined(self) -> bool:
        return not self._backend._alone

    def step_boundary(self) -> int:
        """Between two steps: members may change here. Returns ``step``.

        Raises Evicted when the others went on without this rank, QuorumLost when no majority can
        be reached.
        """
        if self._backend._is_shut_down:
            pass  # the optimizer may well be used after the group
        elif self._backend._alone:
            self._boundary_alone()
        else:
            self.step += 1
            self._membership.boundary()
        return self.step

    def rejoin(self) -> int:
        """After ``Evicted``: comes back with the others' state. Returns ``step``."""
        if not self._backend._alone:
            self._membership.stop()
            self._backend._withdraw()
        self.step = self._membership.join(self._wait)
        return self.step

    def close(self) -> None:
        """Ends what this started; members do not change any more."""
        self._membership.stop()

    def _boundary_alone(self) -> None:
        self._steps_alone += 1
        is_ddp = isinstance(self._model, DistributedDataParallel)
        if self._steps_alone >= (_DDP_STEPS_ALONE if is_ddp else 1):
            self.step = self._membership.join(self._wait)

    # The state.

    def _state(self) -> Snapshot:
        return Snapshot(
            {
                "model": self._model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
                "others": [other.state_dict() for other in self._others],
            }
        )

    def _replica(self) -> Snapshot:
        """What must be equal on all members after a step. Buffers (running means) need not be."""
        return Snapshot(
            {
                "parameters": dict(self._model.named_parameters()),
                "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            }
        )

    def _load(self, tree: dict) -> None:
        self._model.load_state_dict(tree["model"])
        for optimizer, state in zip(self._optimizers, tree["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        for other, state in zip(self._others, tree["others"], strict=True):
            other.load_state_dict(state)

    # A new view.

    def _bring_together(self, joining: bool) -> None:
        """All members of a view at once: who has no state, or another than most, gets one."""
        rank = self._backend.rank()
        self._donors = [donor for donor in self._donors if donor.thread.is_alive()]
        mine = _LACKS if joining else self._replica().digest()
        digests = self._compare(mine)
        held = {r: d for r, d in enumerate(digests) if d not in (_NOBODY, _LACKS)}
        if not held:
            raise PeerFailed("papilio: no member of the new view holds a state")
        counts = collections.Counter(held.values())
        # Most have it; among equals, what the lowest rank has.
        common = max(counts, key=lambda d: (counts[d], -min(r for r in held if held[r] == d)))
        donors = sorted(r for r, d in held.items() if d == common)[:MOST_DONORS]
        receivers = [r for r, d in enumerate(digests) if d not in (_NOBODY, common)]
        if rank in receivers:
            if not joining:
                self._membership.say(
                    f"its replica had drifted from that of most ranks (local values in some "
                    f"rounds); takes over the state of rank {donors[0]}"
                )
            self._load(receive(self._backend, donors).tree())
            self.states_received += 1
            if self._replica().digest() != common:
                self._membership.say(
                    "its replica still differs from the others after it took over their state; "
                    "does load_state_dict() of its optimizer restore what state_dict() returned?"
                )
        elif rank in donors and receivers:
            state = self._state()
            skeleton, flat = state.skeleton(), state.flat()
            self._donors += [Donor(self._backend, r, skeleton, flat) for r in receivers]

    def _compare(self, mine: int) -> list:
        error = None
        for _ in range(_TRIES):
            table = torch.full((self._backend.size(),), _NOBODY, dtype=torch.int64)
            table[self._backend.rank()] = mine
            options = dist.AllreduceOptions()
            options.reduceOp = dist.ReduceOp.MIN
            try:
                self._backend.allreduce([table], options).wait()
                return table.tolist()
            except PeerFailed as failure:  # on all members alike
                error = failure
        raise error


def attach(model, optimizer, *others, group=None, hook: bool = True, wait: float = 1800.0):
    """Lets ranks of this training be restarted while the others go on.

    Call it on every rank once the model (wrapped in DDP, or not) and the optimizer exist. From
    then on the end of ``optimizer.step()`` is where members may change: dead ones are left out,
    restarted ones come in and get parameters, buffers, optimizer state and step from the others.
    On a restarted rank (``python -m papilio.run --restarts K``, or ``PAPILIO_REJOIN=1``) the first
    steps run alone, with values that do not count; then it waits to be let in.

    Args:
        model: the module; all its tensors whole on every rank (DDP, not FSDP).
        optimizer: an optimizer, or a list of them; the last one's step ends a training step.
        others: more objects with ``state_dict()`` and ``load_state_dict()``, such as a scheduler.
        group: the process group (None: the default one).
        hook: False if you call ``step_boundary()`` yourself, once per step on every rank.
        wait: seconds that a restarted rank waits to be let in.

    Returns an ``Attachment``; use its ``step`` instead of a counter of your own. Raises ValueError
    for sharded models, and for a group that is attached already.
    """
    optimizers = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    backend = _backend(group)
    if backend._number in _attached:
        raise ValueError("papilio: this group is attached already; one model per group")
    attachment = Attachment(model, optimizers, others, group, wait)
    _attached[backend._number] = attachment
    if hook:
        optimizers[-1].register_step_post_hook(lambda *_: attachment.step_boundary())
    return attachment


def _attachment(group) -> Attachment:
    attachment = _attached.get(_backend(group)._number)
    if attachment is None:
        raise ValueError("papilio: call papilio.attach(model, optimizer) first")
    return attachment


def step_boundary(group=None) -> int:
    """Between two training steps, on every rank: members may change. The group's step."""
    return _attachment(group).step_boundary()


def rejoin(group=None) -> int:
    """After ``Evicted``: this rank comes back with the others' state. The group's step."""
    return _attachment(group).rejoin()


def stop() -> None:
    """At the interpreter's exit."""
    for attachment in _attached.values():
        attachment.close()
    _attached.clear()
