"""The processes of a run: on which device each computes, in which precision, and what one finds out for all."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast_object_list

from ..config import RunConfig
from ..errors import Text2VideoError, UsageError
from ..families.devices import choose_device, keep_freed_memory
from .precision import choose_precision
from .tracking import tracker_names

T = TypeVar("T")


def accelerator_of(config: RunConfig) -> Accelerator:
    """This process, as its launcher and the configuration say.

    Raises:
        UsageError: the device is not the one that is wanted, or the launcher shards models in a way of its own.
    """
    for plugin in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{plugin}", "false").lower() == "true":
            raise UsageError(
                f"accelerate is set up to run models by its plugin {plugin}, which this trainer has no use for. Launch "
                "it by torchrun, or run `accelerate config` anew without the plugin; --sharding full shards the model."
            )
    # accelerate remembers the first run of a process; a second one may want another device or precision.
    wanted = choose_device(config.train.device)
    if wanted.type == "cpu":
        keep_freed_memory()
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(
        mixed_precision=choose_precision(config.train.mixed_precision, config.train.device),
        cpu=config.train.device == "cpu",
        log_with=tracker_names(config) or None,
        project_dir=config.output_dir / "logs",
        kwargs_handlers=[
            # the last layers of some pretrained models give what no one asks for, and learn nothing from it
            DistributedDataParallelKwargs(
                broadcast_buffers=False, find_unused_parameters=config.train.init_from is not None
            ),
            InitProcessGroupKwargs(timeout=timedelta(hours=12)),  # the others wait while one checks the data
        ],
    )
    if config.train.device != "auto" and accelerator.device.type != wanted.type:
        raise UsageError(
            f"--device {config.train.device} cannot be used on this machine: accelerate chooses "
            f"{accelerator.device.type} here. Leave --device out, or hide the other devices."
        )
    return accelerator


def by_first(accelerator: Accelerator, make: Callable[[], T]) -> T:
    """What the first process makes, for all of them; what it raises of ours, all raise."""
    if accelerator.num_processes == 1:
        return make()
    found: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            found = [make()]
        except Text2VideoError as error:
            found = [error]
    broadcast_object_list(found)
    if isinstance(found[0], Text2VideoError):
        raise found[0]
    return found[0]


def leave_group() -> None:
    """The process leaves the group that it trained in, if it did: the next run makes its own."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
