"""Weights, gradients and averages dealt out among processes: each holds its share of every tensor.

Fully sharded data parallelism (Zhao et al. 2023, arXiv:2304.11277) by torch's `fully_shard`: a block's weights are
gathered when it computes, and let go of after it. Outside of that they are `DTensor`s, of which optimiser and average
work on the process's own share.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from .offload import block_kinds, move_all_but


class Sharded:
    """The parts of a pipeline that train, dealt out in place, and the pipeline on this process's device.

    What only `fully_shard` knows, such as its names for classes, is in no model that is looked at or written:
    `whole` holds plain modules, which have weights within `gathered`.

    Args:
        pipe: on the CPU, the same in every process.
        parts: component name -> module.
        device: of this process.
        dtype: that weights are gathered and computed with; None: their own. Their master copies stay as they are, and
            gradients are added up in float32.
    """

    def __init__(self, pipe: Any, parts: Mapping[str, nn.Module], device: torch.device, dtype: torch.dtype | None):
        self.pipe, self.parts = pipe, parts
        self.whole = {name: hollow(part) for name, part in parts.items()}
        move_all_but(parts, pipe, device)  # they follow block by block: no device has to hold them whole
        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        # timesteps go up to 1000, which half precision counts in fours: the model itself casts its inputs
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for part in parts.values():
            for module in [*blocks_of(part), part]:
                fully_shard(module, mesh=mesh, mp_policy=policy)

    @contextmanager
    def gathered(self, averages: Mapping[str, Tensor], device: torch.device | None) -> Iterator[None]:
        """Within, the pipeline has whole parts. All processes have to enter at once.

        Args:
            averages: COMPONENT.LAYER.weight -> what takes the place of this weight.
            device: where to have them; None: this process only helps the others.
        """
        for name, part in self.parts.items():
            own = self.whole[name].to(device or "cpu")
            places = chain(own.parameters(), own.buffers())
            for place, (key, value) in zip(places, chain(part.named_parameters(), part.named_buffers()), strict=True):
                value = assembled(averages.get(f"{name}.{key}", value))
                if device:
                    place.data = value.to(device)
        self.pipe.register_modules(**self.whole)
        try:
            yield
        finally:
            self.pipe.register_modules(**self.parts)
            for place in (parameter for part in self.whole.values() for parameter in part.parameters()):
                place.data = torch.empty(0, dtype=place.dtype)


def blocks_of(part: nn.Module) -> list[nn.Module]:
    """The blocks that are gathered one after the other, inner ones before those around them."""
    kinds = block_kinds(part)
    inner = list(part.modules())[1:]  # without the part itself
    return [module for module in reversed(inner) if type(module).__name__ in kinds]


def hollow(part: nn.Module) -> nn.Module:
    """A copy without weights: its parameters are there, and empty."""
    empty = {id(p): nn.Parameter(torch.empty(0, dtype=p.dtype), requires_grad=False) for p in part.parameters()}
    return copy.deepcopy(part, empty).eval()


def assembled(value: Tensor) -> Tensor:
    """The whole of a tensor that is dealt out, by all processes at once; any other as it is. Without gradients."""
    own: Any = value.detach()
    return own.full_tensor() if isinstance(value, DTensor) else own


def collected(tree: Any, kept: bool) -> Any:
    """Nested values with whole tensors in place of those that are dealt out, by all processes at once.

    Args:
        kept: whether this process wants them, in main memory.
    """

    def whole(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        found = assembled(value)
        return found.cpu() if kept and isinstance(value, DTensor) else found if kept else None

    return tree_map(whole, tree)


def dealt(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, dealt out as another one is; as it is where that one is not."""
    if not isinstance(like, DTensor):
        return whole
    share = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(share).copy_(share)  # a share is a view, which would keep the whole in memory


def dealt_state(saved: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """An optimiser's saved state, what it holds of each weight dealt out as the weight is."""
    weights = [p for group in getattr(optimizer, "param_groups", []) for p in group["params"]]
    state = {
        index: {
            name: dealt(value, weights[index]) if getattr(value, "shape", None) == weights[index].shape else value
            for name, value in values.items()
        }
        for index, values in saved.get("state", {}).items()
    }
    return {**saved, "state": state} if weights else saved
