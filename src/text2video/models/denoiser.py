"""What our denoisers share: subclasses that need no decorator, shapes that are checked, gradient checkpointing."""

import functools
import inspect
import sys
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin
from diffusers.loaders import PeftAdapterMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from ..sizes import ShapeRules


class Denoiser(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """A model that predicts what a video was made of. Its arguments, and a subclass's, are saved and loaded."""

    _supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012 - the name and type that diffusers reads
    _repeated_blocks = ["Block"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["norm", "embedding"]  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.gradient_checkpointing = False

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        # diffusers loads a model in a pipeline folder only when the module that defines it holds this name.
        if module := sys.modules.get(cls.__module__):
            vars(module).setdefault("ModelMixin", ModelMixin)
        if "__init__" in vars(cls):
            cls.__init__ = _recorded(cls)

    @property
    def strides(self) -> tuple[int, int, int]:
        """Frames, height and width must be multiples of these."""
        raise NotImplementedError

    @property
    def rules(self) -> ShapeRules:
        """The videos that it can take."""
        return ShapeRules.multiples(*self.strides)

    def _run(self, block: nn.Module, *inputs: Any) -> Tensor:
        if self._gradient_checkpointing_func and self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *inputs)
        return block(*inputs)


@dataclass
class DenoiserOutput(BaseOutput):
    """`sample`: the prediction `[B, out_channels, T, H, W]`."""

    sample: Tensor


def _recorded(cls: type[Denoiser]):
    """The class's `__init__`, which also records its arguments in the config and shows the inherited ones.

    diffusers saves and passes only arguments that it finds in the signature of `__init__`.
    """
    init = cls.__init__
    own = inspect.signature(init)
    parameters = dict(own.parameters)
    rest = next((p for p in own.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    if rest is not None:
        del parameters[rest.name]
        inherited = inspect.signature(super(cls, cls).__init__).parameters
        parameters |= {name: p.replace(kind=p.KEYWORD_ONLY) for name, p in inherited.items() if name not in parameters}

    @functools.wraps(init)
    def recording_init(self: Denoiser, *args: Any, **kwargs: Any):
        bound = own.bind(self, *args, **kwargs)
        bound.apply_defaults()
        given = {name: value for name, value in list(bound.arguments.items())[1:] if name in parameters}
        init(self, *args, **kwargs)
        self.register_to_config(**given)

    vars(recording_init)["__signature__"] = own.replace(parameters=list(parameters.values()))
    return recording_init
