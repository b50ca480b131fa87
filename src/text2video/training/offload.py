"""Block offloading: the frozen weights of a denoiser lie in RAM, and one or two of its blocks at a time on the GPU.

Each block is recomputed in the backward pass (Chen et al. 2016, arXiv:1604.06174), so its weights are needed for two
moments: they are fetched before each, and the next block's are on their way meanwhile, on a stream of their own.
Adapters stay on the GPU. Nothing is written back, since frozen weights do not change.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UsageError


class BlockOffload:
    """Keeps a denoiser's blocks in RAM, and brings each to the device for as long as it computes.

    Args:
        model: a diffusers transformer whose weights are frozen, besides adapters; it is on the CPU.
        device: that computes.

    Raises:
        UsageError: the model is no chain of blocks that can be recomputed one by one.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        kinds = block_kinds(model)
        chains = [child for child in model.children() if isinstance(child, nn.ModuleList)]
        self.blocks = [block for chain in chains for block in chain if type(block).__name__ in kinds]
        if not self.blocks or not getattr(model, "_supports_gradient_checkpointing", False):
            raise UsageError(
                f"--block_offload needs a denoiser that is a chain of blocks, and this one is a "
                f"{type(model).__name__}. Use --layerwise_casting, or leave it out."
            )
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.fetched: dict[int, Any] = {}  # block -> the event after which its weights are there
        self.home: list[list[tuple[Tensor, Tensor]]] = []  # of each block: (its tensor, what it holds in RAM)
        for number, block in enumerate(self.blocks):
            frozen = [value for value in (*block.parameters(), *block.buffers()) if not value.requires_grad]
            self.home.append([(value, self._kept(value.data)) for value in frozen])
            self.evict(number)
            block.register_forward_pre_hook(partial(self._enter, number))
        away = {id(value) for kept in self.home for value, _ in kept}
        for value in (*model.parameters(), *model.buffers()):
            if id(value) not in away:
                value.data = value.data.to(device)
        model.enable_gradient_checkpointing(self.recomputed)  # pyright: ignore[reportCallIssue]

    def _kept(self, data: Tensor) -> Tensor:
        return data.pin_memory() if self.stream else data

    def fetch(self, number: int) -> None:
        """Begin to bring a block's weights to the device, if there is such a block and they are not there."""
        if number in self.fetched or not 0 <= number < len(self.blocks):
            return
        with torch.cuda.stream(self.stream):  # without a GPU this does nothing
            for value, kept in self.home[number]:
                value.data = kept.to(self.device, non_blocking=True, copy=True)
            self.fetched[number] = self.stream.record_event() if self.stream else None

    def evict(self, number: int) -> None:
        """Let go of a block's weights on the device."""
        self.fetched.pop(number, None)
        for value, kept in self.home[number]:
            value.data = kept

    def _enter(self, number: int, block: nn.Module, args: Any) -> None:
        # checkpointing runs a block without gradients first; with them it goes through the blocks from the last
        following = number - 1 if torch.is_grad_enabled() else number + 1
        for other in [other for other in self.fetched if other not in (number, following)]:
            self.evict(other)
        self.fetch(number)
        if self.stream:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(self.fetched[number])
            for value, _ in self.home[number]:
                value.data.record_stream(current)
        self.fetch(following)

    def recomputed(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Takes the place of diffusers' checkpointing: weights are there until the block's backward pass is over.

        That is why it is the reentrant kind, which needs an input with gradients.
        """
        if not any(isinstance(value, Tensor) and value.requires_grad for value in args):
            first = next(n for n, value in enumerate(args) if isinstance(value, Tensor) and value.is_floating_point())
            args = (*args[:first], args[first].detach().requires_grad_(), *args[first + 1 :])
        return checkpoint(partial(block, **kwargs), *args, use_reentrant=True)


def block_kinds(model: nn.Module) -> list[str]:
    """Names of the classes of a model's blocks: what diffusers keeps in one piece, or compiles once for all."""
    return [*(getattr(model, "_no_split_modules", None) or []), *(getattr(model, "_repeated_blocks", None) or [])]


def move_all_but(parts: Mapping[str, nn.Module], pipe: Any, device: torch.device) -> None:
    """Puts a pipeline on a device, and leaves these parts of it, component -> module, where they are."""
    pipe.register_modules(**dict.fromkeys(parts))
    pipe.to(device)
    pipe.register_modules(**parts)


def offload_blocks(pipe: Any, parts: Mapping[str, nn.Module], device: torch.device) -> list[BlockOffload]:
    """Puts a pipeline on a device, but of these parts only what is not in their blocks."""
    move_all_but(parts, pipe, device)
    return [BlockOffload(part, device) for part in parts.values()]
