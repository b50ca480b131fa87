"""Where what trains lies and computes: on which device, cast, recomputed, compiled, shared among processes."""

import logging
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ..config import RunConfig
from ..families.precision import cast_layers
from .offload import offload_blocks
from .precision import HALF, has_compiler
from .recompute import recompute
from .sharding import Sharded, blocks_of

logger = logging.getLogger("text2video")

Modules = dict[str, nn.Module]


def placed(
    config: RunConfig, pipe: Any, parts: Modules, accelerator: Accelerator
) -> tuple[Modules, Modules, Sharded | None]:
    """Put the pipeline on the device, with what the configuration asks of the modules that train.

    Returns:
        The modules shared among processes, as the loop calls them; the same as plain ones, to look at and to save; and
        how they are dealt out, where they are.
    """
    train, memory, device = config.train, config.memory, accelerator.device
    half = HALF.get(accelerator.mixed_precision)
    dealt_out = train.sharding == "full" and accelerator.num_processes > 1
    if memory.layerwise_casting:
        cast_layers(parts.values(), half or torch.float32)
    if memory.block_offload:
        offload_blocks(pipe, parts, device)
    elif not dealt_out:
        pipe.to(device)
    for part in parts.values():
        part.train()
        if memory.block_offload:
            continue  # it recomputes block by block anyway
        if train.gradient_checkpointing:
            recompute(part)
        if train.compile:
            if has_compiler(device):
                # shares are gathered between blocks, where no graph goes on; later than this nothing is compiled
                for module in blocks_of(part) if dealt_out else [part]:
                    module.compile()
            else:
                logger.warning("There is no compiler for torch.compile on this machine: training runs without it.")
    if dealt_out:
        sharded = Sharded(pipe, parts, device, half)
        return parts, sharded.whole, sharded
    here = not memory.block_offload
    modules = {name: accelerator.prepare_model(part, device_placement=here) for name, part in parts.items()}
    # The loop says itself where it computes in mixed precision, so that previews compute as `generate` does.
    plain = {name: accelerator.unwrap_model(module, keep_fp32_wrapper=False) for name, module in modules.items()}
    return modules, plain, None
