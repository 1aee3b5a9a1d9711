"""A rank's training state as bytes: what a new member is told, and how replicas are compared.

A state is a tree of dicts, lists, tuples and plain values with tensors in it, as ``state_dict()``
returns. It is taken apart into a *skeleton* (the tree without tensors) and one flat buffer with all
tensors' bytes, in an order that depends on the keys alone, so that equal replicas give equal
buffers and parts of one state may come from several donors.
"""

import dataclasses
import io
import math
import sys

import torch

from papilio import _native

_ALIGNMENT = 64  # bytes; each tensor starts at a multiple


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where a tensor's bytes lie in the flat buffer."""

    start: int
    nbytes: int
    dtype: torch.dtype
    shape: tuple

    def view(self, flat: torch.Tensor) -> torch.Tensor:
        part = flat[self.start : self.start + self.nbytes]
        return part.view(self.dtype).view(self.shape)


def _is_sharded(tensor) -> bool:
    # Its import takes seconds: where it was not imported, there is none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def _sorted_keys(mapping):
    return sorted(mapping, key=lambda key: (type(key).__name__, repr(key)))


class Snapshot:
    """The tensors of a tree, and the tree around them. Tensors are referenced, not copied."""

    def __init__(self, tree):
        self.tensors: list = []
        self.slots: list = []
        self.nbytes = 0
        self._tree = self._take_apart(tree)

    def _take_apart(self, node):
        if isinstance(node, torch.Tensor):
            return ("tensor", self._add(node))
        if isinstance(node, dict):
            return ("dict", [(key, self._take_apart(node[key])) for key in _sorted_keys(node)])
        if isinstance(node, list | tuple):
            kind = "list" if isinstance(node, list) else "tuple"
            return (kind, [self._take_apart(item) for item in node])
        return ("value", node)

    def _add(self, tensor) -> int:
        if _is_sharded(tensor):
            raise ValueError(
                "papilio: the state holds sharded tensors (FSDP or tensor parallel); a rank that "
                "was restarted cannot get its shards from others, which do not have them. Restart "
                "the job from a checkpoint"
            )
        nbytes = tensor.numel() * tensor.element_size()
        self.tensors.append(tensor.detach())
        self.slots.append(Slot(self.nbytes, nbytes, tensor.dtype, tuple(tensor.shape)))
        self.nbytes = math.ceil((self.nbytes + nbytes) / _ALIGNMENT) * _ALIGNMENT
        return len(self.slots) - 1

    def skeleton(self) -> torch.Tensor:
        """Everything but the tensors' bytes, as bytes."""
        slots = [(s.start, s.nbytes, s.dtype, s.shape) for s in self.slots]
        buffer = io.BytesIO()
        torch.save({"tree": self._tree, "slots": slots, "nbytes": self.nbytes}, buffer)
        return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)

    def flat(self) -> torch.Tensor:
        """A copy of all tensors in one buffer on the CPU; gaps are zero."""
        flat = torch.zeros(self.nbytes, dtype=torch.uint8)
        for tensor, slot in zip(self.tensors, self.slots, strict=True):
            if slot.nbytes:
                slot.view(flat).copy_(tensor)
        return flat

    def digest(self) -> int:
        """63 bits that differ when a tensor, a name or a value does."""
        checksum = _native.load().Backend._checksum
        crc = 0
        for tensor in self.tensors:
            crc = checksum(tensor.cpu().contiguous(), crc)
        names = torch.frombuffer(bytearray(repr(self._tree).encode()), dtype=torch.uint8)
        return (checksum(names) & 0x7FFFFFFF) << 32 | crc


class Received:
    """A state that comes from others: allocate it from the skeleton, fill ``flat``, rebuild."""

    def __init__(self, skeleton: torch.Tensor):
        loaded = torch.load(io.BytesIO(skeleton.numpy().tobytes()), weights_only=True)
        self._tree = loaded["tree"]
        self.slots = [Slot(*fields) for fields in loaded["slots"]]
        self.flat = torch.zeros(loaded["nbytes"], dtype=torch.uint8)

    def tree(self):
        return self._rebuild(self._tree)

    def _rebuild(self, node):
        kind, content = node
        if kind == "tensor":
            return self.slots[content].view(self.flat).clone()
        if kind == "dict":
            return {key: self._rebuild(item) for key, item in content}
        if kind in ("list", "tuple"):
            items = [self._rebuild(item) for item in content]
            return items if kind == "list" else tuple(items)
        return content
