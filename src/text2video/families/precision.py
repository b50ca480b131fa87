"""Frozen weights held in fewer bits: quantised by diffusers' quantisers, or stored as fp8 and cast layer by layer.

Both are for models that do not learn, under an adapter or in generation. int8 and fp8 come from torchao and work on a
CPU too; nf4 (Dettmers et al. 2023, arXiv:2305.14314) comes from bitsandbytes and needs an NVIDIA GPU.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from ..errors import UsageError

Quantization = Literal["int8", "fp8", "nf4"]
LIBRARIES = {"int8": "torchao", "fp8": "torchao", "nf4": "bitsandbytes"}


def quantizers(kind: Quantization, names: Iterable[str], dtype: torch.dtype) -> Any:
    """What a diffusers pipeline is opened with so that the linear layers of these components are quantised.

    Args:
        dtype: that they compute in.

    Raises:
        UsageError: the library is missing, or it needs a GPU and there is none.
    """
    from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig, TorchAoConfig

    library = LIBRARIES[kind]
    if find_spec(library) is None:
        raise UsageError(f"--quantize {kind} needs {library}, which is not installed: pip install {library}")
    if kind == "nf4":
        if not torch.cuda.is_available():
            raise UsageError("--quantize nf4 needs an NVIDIA GPU. Choose int8 or fp8, or leave it out.")
        config: Any = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
        )
    else:
        from torchao import quantization  # pyright: ignore[reportMissingImports]

        own = {"int8": quantization.Int8WeightOnlyConfig, "fp8": quantization.Float8WeightOnlyConfig}[kind]
        config = TorchAoConfig(own())
    parts: dict[str, Any] = dict.fromkeys(names, config)
    return PipelineQuantizationConfig(quant_mapping=parts)


def is_quantized(module: nn.Module) -> bool:
    """Whether diffusers quantised it while it was opened."""
    return getattr(module, "hf_quantizer", None) is not None


def cast_layers(modules: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """Has the linear layers hold their weights as fp8 and cast them to `dtype` while they compute.

    Norms, embeddings of patches and adapters stay as they are, as diffusers has it; convolutions too, since autograd
    would find the fp8 weights of a convolution in the backward pass.
    """
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    for module in modules:
        module.enable_layerwise_casting(  # pyright: ignore[reportCallIssue]
            storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype, skip_modules_classes=convolutions
        )
