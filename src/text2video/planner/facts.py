"""What a run's training step is made of, built on the meta device from configurations alone: no weights are read."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from ..config import RunConfig
from ..errors import ModelError
from ..families.base import family_of, model_folder
from ..families.frozen import Frozen
from ..families.imports import construct
from ..families.native import NativeFamily
from ..models.codecs import Geometry, decode, encode
from ..models.text import BuiltinTextModel, text_source
from ..sizes import Bucket, parse_all
from ..training.build import denoiser_class
from .tracing import META

Predict = Callable[[Tensor, Tensor], Tensor]
"""(x_t `[B, C, t, h, w]`, t `[B]`) -> the prediction of the same shape, for captions of the greatest length."""


@dataclass
class Facts:
    """The parts of a model and what is done with them.

    Args:
        learning: the modules that a step goes through. Their parameters that require a gradient are trained.
        predict: what the step computes.
        video: the largest that the run trains on.
        latents: (C, t, h, w) of that video as it is denoised.
        frozen: modules that wait in memory beside.
        codec: the autoencoder among them, where it is in memory or the previews need it.
        encodes: whether clips are encoded while training.
    """

    learning: dict[str, nn.Module]
    predict: Predict
    video: Bucket
    latents: tuple[int, int, int, int]
    frozen: dict[str, nn.Module] = field(default_factory=dict)
    codec: nn.Module | None = None
    encodes: bool = False

    def batch(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """x_0 and x_t `[B, C, t, h, w]` and t `[B]`."""
        x_0 = torch.empty(size, *self.latents)
        return x_0, torch.empty_like(x_0), torch.empty(size)

    def encoding(self) -> Tensor:
        """The work of the codec on one clip."""
        return encode(self.codec, torch.empty(1, 3, *self.video)).mean

    def decoding(self) -> Tensor:
        """The work of the codec on one sampled video."""
        return decode(self.codec, torch.empty(1, *self.latents))


def facts_of(config: RunConfig) -> Facts:
    """The facts of a run.

    Raises:
        ModelError: a model that is named is not there, or is of a kind whose step is not known here.
        UsageError: the model cannot take videos of that shape.
    """
    shapes = parse_all(config.data.buckets)
    buckets = [config.data.shape] if shapes == "auto" or not shapes else shapes
    video = max(buckets, key=lambda bucket: bucket.pixels)
    return _native(config, video)


def _native(config: RunConfig, video: Bucket) -> Facts:
    parts = _parts(config)
    unet: Any = parts.pop("unet")
    text: Any = parts["text_encoder"]
    vae: Any = parts.get("vae")
    geometry = Geometry.of({**vae.config, "_class_name": type(vae).__name__}) if vae else None
    frames, height, width = geometry.latent_shape(video) if geometry else video
    unet.rules.check((frames, height, width)) if geometry is None else geometry.rules(unet.rules).check(video)
    tokens = config.text.max_tokens
    learning: dict[str, nn.Module] = {"unet": unet}
    if isinstance(text, BuiltinTextModel):
        learning["text_encoder"] = parts.pop("text_encoder")
        tokens = text.config["max_tokens"]

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        mask = torch.ones(len(t), tokens, dtype=torch.bool)
        if "text_encoder" in learning:
            words = text(torch.zeros(len(t), tokens, dtype=torch.long), mask)
        else:
            words = torch.empty(len(t), tokens, unet.config["cross_attention_dim"])
        return unet(x_t, t, words, mask, return_dict=False)[0]

    for module in learning.values():
        module.train().requires_grad_(True)
    frozen = {} if config.data.load_tensors else parts
    latents = (geometry.channels if geometry else 3, frames, height, width)
    encodes = vae is not None and not config.data.load_tensors
    return Facts(learning, predict, video, latents, frozen, vae, encodes)


def _parts(config: RunConfig) -> dict[str, nn.Module]:
    """Component -> module on the meta device: of the model that the run starts from, or of a new one."""
    if config.train.init_from:
        folder = model_folder(config.train.init_from)
        if not isinstance(family_of(folder), NativeFamily):
            raise ModelError(f"What a step of the model in {str(folder)!r} takes is not known before it runs.")
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        names = [name for name in ("unet", "text_encoder", "vae") if (index.get(name) or [None])[0]]
        return {name: on_meta(folder / name, *index[name]) for name in names}
    frozen = Frozen.of(config)
    with META:
        text = BuiltinTextModel(
            config.text.vocab_size, config.text.text_width, config.text.text_layers, config.text.max_tokens
        )
        if frozen.text:
            text = _transformers(AutoConfig.from_pretrained(text_source(frozen.text)))
        width = frozen.text_width if frozen.text else config.text.text_width
        parts = {"unet": construct(NativeFamily.denoiser, config, width, denoiser_class(config)), "text_encoder": text}
    if frozen.codec:
        parts["vae"] = on_meta(frozen.codec, "diffusers", Geometry.read(frozen.codec).kind)
    return parts


def on_meta(folder: Path, library: str, kind: str) -> nn.Module:
    """A part of a model folder without its weights: on the meta device, in evaluation mode.

    Raises:
        ModelError: its config.json cannot be read, or names a class of another library.
    """
    with META:
        if library == "transformers":
            return _transformers(AutoConfig.from_pretrained(folder), kind).eval()
        if library != "diffusers" and not library.startswith("text2video."):
            raise ModelError(f"The part in {str(folder)!r} is of {library}, a library that is not known here.")
        found = getattr(import_module(library), kind)
        return found.from_config(found.load_config(folder)).eval().requires_grad_(False)


def _transformers(config: Any, kind: str = "") -> nn.Module:
    import transformers

    kinds = {"clip": "CLIPTextModel", "t5": "T5EncoderModel", "umt5": "UMT5EncoderModel"}
    found = getattr(transformers, kind or kinds.get(config.model_type, "CLIPTextModel"))
    inner = config.text_config if config.model_type == "clip" else config
    return found(inner).requires_grad_(False)
