"""What a run's training step is made of, built on the meta device from configurations alone: no weights are read."""

import inspect
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..config import RunConfig
from ..errors import ModelError, Text2VideoError
from ..families import lora
from ..families.autoencoder import AUTOENCODERS, Autoencoder, latent_shape
from ..families.autoregressive import tokenizer_folder
from ..families.base import Family
from ..families.gan import VideoGAN
from ..families.imports import construct
from ..families.native import NativeFamily, arguments
from ..families.opening import family_of, model_folder
from ..families.pretrained import PretrainedFamily
from ..models.autoregressive import AutoregressiveTransformer
from ..models.codecs import IMAGE, Geometry, decode, encode, geometry_of, library_of
from ..models.discriminator import PatchDiscriminator
from ..models.gan import STRIDES
from ..models.text import BuiltinTextModel
from ..models.video_tokenizer import VideoTokenizer
from ..sections import GANS
from ..sizes import ALL, Bucket, ShapeRules, parse_all
from ..training.build import learning
from ..training.from_images import inflate_frames
from .parts import Reader, on_meta
from .tracing import CPU, META

Predict = Callable[[Tensor, Tensor], Tensor]
"""(x_t `[B, C, t, h, w]`, t `[B]`) -> the prediction of the same shape, for a long caption."""

CAPTION = "a red circle moves left and a blue square moves right " * 5  # long, for a caption


@dataclass
class Facts:
    """The parts of a model and what is done with them.

    Args:
        learning: the modules that a step goes through. Their parameters that require a gradient are trained.
        predict: what the step computes.
        video: the largest that the run trains on.
        rules: the videos that the model can take.
        latents: (C, t, h, w) of that video as it is denoised.
        frozen: modules that are in memory beside, but only for previews where data was prepared.
        embedded: of these, the names of those that leave memory once all captions are embedded, until previews.
        codec: the autoencoder among them.
        encode, decode: the codec's work on one clip and on one sampled video.
    """

    learning: dict[str, nn.Module]
    predict: Predict
    video: Bucket
    latents: tuple[int, int, int, int]
    rules: ShapeRules = ALL
    frozen: dict[str, nn.Module] = field(default_factory=dict)
    embedded: tuple[str, ...] = ()
    codec: nn.Module | None = None
    encode: Callable[[], Any] | None = None
    decode: Callable[[], Any] | None = None

    @property
    def numbers(self) -> int:
        """How many numbers of a video are denoised."""
        return math.prod(self.latents)

    @property
    def trained(self) -> dict[str, Tensor]:
        """Name -> weight that is trained."""
        found = {f"{name}.{key}": p for name, part in self.learning.items() for key, p in part.named_parameters()}
        return {name: parameter for name, parameter in found.items() if parameter.requires_grad}

    @property
    def tensors(self) -> list[Tensor]:
        """Weights and buffers of all parts."""
        modules = [*self.learning.values(), *self.frozen.values()]
        return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


@contextmanager
def traceable() -> Iterator[None]:
    """Within, what a model does that tensors without contents cannot follow is a ModelError."""
    try:
        yield
    except Text2VideoError:
        raise
    except Exception as error:  # whatever its code raises
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise ModelError(
            f"This model cannot be planned: its code does not run without weights ({type(error).__name__}: {reason})."
        ) from error


def facts_of(config: RunConfig) -> Facts:
    """The facts of a run.

    Raises:
        ModelError: a model that is named is not there, or is of a kind that is not known.
        UsageError: the model cannot take videos of that shape.
    """
    shapes = parse_all(config.data.buckets)
    buckets = [config.data.shape] if isinstance(shapes, str) or not shapes else shapes
    video = max(buckets, key=lambda bucket: bucket.pixels)
    with torch.random.fork_rng(devices=[]), traceable():
        family = family_of(model_folder(config.train.init_from)) if config.train.init_from else None
        if isinstance(family, Autoencoder) or (family is None and config.model.kind in AUTOENCODERS):
            return _autoencoder(config, video, family or AUTOENCODERS[config.model.kind]())
        if family is None and config.model.kind == "autoregressive":
            return _autoregressive(config, video)
        if family is None and config.model.kind in GANS:
            return _gan(config, video)
        return _pretrained(config, video) if family else _new(config, video)


def _autoencoder(config: RunConfig, video: Bucket, family: Autoencoder) -> Facts:
    """Of a video autoencoder or tokenizer: what it is given and gives back are videos."""
    start, name = config.train.init_from, family.pipeline.codec_name
    with META:
        vae: Any = (
            on_meta(model_folder(start) / name, family.model.__module__, family.model.__name__)
            if start
            else family.create(config).codec
        )
        parts: dict[str, nn.Module] = {name: vae}
        if config.vae.adversarial_weight:
            parts["discriminator"] = PatchDiscriminator(width=config.vae.discriminator_width)
    vae.rules.check(video)

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        drawn = [torch.empty(latent_shape(vae, x_t.shape), dtype=x_t.dtype)] if name == "vae" else []
        sample = vae(x_t, *drawn).sample
        if "discriminator" in parts:  # it judges real videos, and what came back for either player
            judged = [parts["discriminator"](video) for video in (x_t, sample, sample)]
            sample = sample + torch.stack([judgement.mean() for judgement in judged]).mean()
        return sample

    for module in parts.values():
        module.requires_grad_(True)
    return Facts(parts, predict, video, (3, video.frames, video.height, video.width), vae.rules)


def _autoregressive(config: RunConfig, video: Bucket) -> Facts:
    """Of an autoregressive model that begins untrained; what it predicts is summed up to the size of its tokens."""
    folder, text = tokenizer_folder(config), config.text
    frozen: dict[str, nn.Module] = {}
    with META:
        tokenizer: Any = on_meta(folder, VideoTokenizer.__module__, VideoTokenizer.__name__)
        frozen["video_tokenizer"] = tokenizer
        modules: dict[str, nn.Module] = {}
        reader = Reader.of(text)
        (modules if reader.learns else frozen)["text_encoder"] = reader.model
        sizes = {"vocab_size": tokenizer.vocab_size, "cross_attention_dim": reader.width} | arguments(config.model)
        modules["transformer"] = model = construct(AutoregressiveTransformer, **sizes)
    tokenizer.rules.check(video)
    time, high, wide = tokenizer.strides
    shape = (1 + (video.frames - 1) // time, video.height // high, video.width // wide)

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        return model(x_t[:, 0].long(), *reader.words(len(t))).logsumexp(-1)[:, None]

    for module in modules.values():
        module.requires_grad_(True)
    facts = Facts(modules, predict, video, (1, *shape), tokenizer.rules, frozen, codec=tokenizer)
    facts.encode = lambda: tokenizer.encode(torch.empty(1, 3, *video))
    facts.decode = lambda: tokenizer.decode(torch.zeros(1, *shape, dtype=torch.long))
    return facts


def _gan(config: RunConfig, video: Bucket) -> Facts:
    """Of a generator and its discriminator: what is judged are videos, real, made, and made for the generator."""
    rules, text = ShapeRules.multiples(*STRIDES), config.text
    rules.check(video)
    with META:
        generator, discriminator = VideoGAN.networks(config, video)
        reader = BuiltinTextModel(text.vocab_size, text.text_width, text.text_layers, text.max_tokens)

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        mask = torch.ones(len(t), text.max_tokens, dtype=torch.bool)
        caption = reader(torch.zeros(len(t), text.max_tokens, dtype=torch.long), mask).mean(1)
        sample = generator(torch.empty(len(t), generator.noise_size(video.frames)), caption, video.frames).sample
        judged = discriminator(torch.cat([x_t, sample, sample]), t.repeat(3), caption.repeat(3, 1)[:, None])
        return sample + judged.mean()

    parts: dict[str, nn.Module] = {"generator": generator, "text_encoder": reader, "discriminator": discriminator}
    for module in parts.values():
        module.requires_grad_(True)
    return Facts(parts, predict, video, (3, video.frames, video.height, video.width), rules)


def _new(config: RunConfig, video: Bucket) -> Facts:
    """Of a model of our own that begins untrained."""
    codec = config.model.codec
    parts: dict[str, nn.Module] = {}
    with META:
        reader = Reader.of(config.text)
        denoiser: Any = NativeFamily.denoiser(config, reader.width)
        modules: dict[str, nn.Module] = {"denoiser": denoiser}
        (modules if reader.learns else parts)["text_encoder"] = reader.model
    geometry, rules, vae = Geometry.read(codec) if codec else None, denoiser.rules, None
    if geometry and codec:
        rules, vae = geometry.rules(rules), on_meta(codec, library_of(geometry.kind), geometry.kind)
        parts["vae"] = vae
    rules.check(video)

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        return denoiser(x_t, t, *reader.words(len(t)), return_dict=False)[0]

    for module in modules.values():
        module.requires_grad_(True)
    latents = _latents(geometry, video)
    facts = Facts(modules, predict, video, latents, rules, parts, codec=vae)
    if vae is not None:
        facts.encode = lambda: encode(vae, torch.empty(1, 3, *video)).mean
        facts.decode = lambda: decode(vae, torch.empty(1, *latents))
    return facts


def _pretrained(config: RunConfig, video: Bucket) -> Facts:
    """Of the model that a run starts from: its own family's code, on its own pipeline without weights."""
    folder = model_folder(config.train.init_from or "")
    family = family_of(folder)
    half = {"no": torch.float32, "fp16": torch.float16}.get(config.train.mixed_precision, torch.bfloat16)
    dtype = half if config.lora else torch.float32
    pipe, frozen = _pipeline(family, folder, dtype)
    family.rules(pipe).check(video)
    with META:
        inflate_frames(config, family, pipe)
        modules = learning(config, family, pipe)
    if config.lora:
        of_adapters = _adapter_type(dtype)
        for module in modules.values():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(of_adapters)
    vae: Any = frozen.get("vae")
    latents = _latents(geometry_of(vae) if vae is not None else None, video)
    given = None if set(modules) - set(family.denoisers(pipe)) else _condition(family, pipe, modules)

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        size = len(t)
        if given is None:
            condition = family.encode_text(pipe, modules, [CAPTION] * size)
        else:
            condition = {name: torch.empty(size, *value.shape[1:], dtype=value.dtype) for name, value in given.items()}
        items = {"video": torch.empty(size, 3, *video)}
        more = family.conditions(pipe, items, torch.empty_like(x_t), [torch.Generator()] * size)
        return family.predict(pipe, modules, x_t, t, {**condition, **more})

    ours = isinstance(family, NativeFamily)
    embedded = () if ours else tuple(name for name in frozen if name.startswith("text_encoder"))
    facts = Facts(modules, predict, video, latents, family.rules(pipe), frozen, embedded, vae)
    if vae is not None:
        facts.encode = lambda: family.encode_video(pipe, torch.empty(1, 3, *video)).mean
        facts.decode = lambda: _decoded(pipe, torch.empty(1, *latents, dtype=vae.dtype))
    return facts


def _latents(geometry: Geometry | None, video: Bucket) -> tuple[int, int, int, int]:
    frames, height, width = geometry.latent_shape(video) if geometry else video
    return geometry.channels if geometry else 3, frames, height, width


def _pipeline(family: Family, folder: Path, dtype: torch.dtype) -> tuple[Any, dict[str, nn.Module]]:
    """A pipeline without weights, that says it is on the CPU, and those of its parts that never train.

    Its text encoders answer zeros.
    """
    from .. import pipelines

    index, places = _index(folder)
    components: dict[str, Any] = {}
    frozen: dict[str, nn.Module] = {}
    for name, value in index.items():
        if not isinstance(value, list) or not all(isinstance(part, str | None) for part in value):
            continue  # a setting of the pipeline's
        library, kind = value
        if kind is None:
            components[name] = None
            continue
        components[name] = part = on_meta(places.get(name, folder / name), library, kind)
        if not isinstance(part, nn.Module):
            continue
        in_float: list[str] = getattr(part, "_keep_in_fp32_modules", None) or []
        # without diffusers' warning about what is done in the next lines; some weights are made on the CPU only
        nn.Module.to(part, META, dtype)
        for key, parameter in part.named_parameters():
            if any(kept in key.split(".") for kept in in_float):
                parameter.data = parameter.data.float()
        if library == "transformers" or name == "vae":
            frozen[name] = part
        if library == "transformers" and "text" in name:
            components[name] = _Zeros(part.config, dtype)
    name = index["_class_name"]
    kind = family.pipeline(name) if isinstance(family, PretrainedFamily) else getattr(pipelines, name)
    here = type(kind.__name__, (kind,), {"device": property(lambda self: CPU)})
    known = inspect.signature(kind.__init__).parameters
    values = {name: value for name, value in index.items() if name in known and name not in components}
    if "scheduler" in known and "scheduler" not in components:
        components["scheduler"] = FlowMatchEulerDiscreteScheduler()  # Open-Sora's, which is not stored
    pipe = here(**components, **values)
    pipe.source = folder
    return pipe, frozen


def _index(folder: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """A model's index, and the folders of those parts that lie elsewhere."""
    file = folder / "model_index.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8")), {}
    from ..families.opensora import CLASSES  # it is published in parts
    from ..families.opensora_pipeline import OpenSoraPipeline, part_folders

    return {"_class_name": OpenSoraPipeline.__name__, **CLASSES}, part_folders(folder)


class _Zeros:
    """Stands where a pipeline expects its text encoder: embeddings of the right shape, at once."""

    def __init__(self, config: Any, dtype: torch.dtype) -> None:
        self.config, self.dtype, self.device = config, dtype, CPU

    def modules(self) -> list[nn.Module]:
        """None: it is looked through for the hooks of offloading."""
        return []

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> BaseModelOutputWithPooling:
        config = getattr(self.config, "text_config", self.config)
        width = getattr(config, "d_model", None) or config.hidden_size
        layers = getattr(config, "num_hidden_layers", None) or getattr(config, "num_layers", 1)
        hidden: Any = torch.zeros(*input_ids.shape, width, dtype=self.dtype)
        return BaseModelOutputWithPooling(hidden, hidden[:, 0], (hidden,) * (layers + 1))


def _condition(family: Family, pipe: Any, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """What the denoiser is told of one caption."""
    return family.encode_text(pipe, modules, [CAPTION])


def _adapter_type(dtype: torch.dtype) -> torch.dtype:
    """The type of an adapter's weights on a layer of this type; peft does not say it on the meta device."""
    layer = nn.Sequential(nn.Linear(1, 1, dtype=dtype))
    lora.add({"probe": layer}, ["0"], rank=1)
    return next(parameter.dtype for parameter in layer.parameters() if parameter.requires_grad)


def _decoded(pipe: Any, latents: Tensor) -> Any:
    """As the pipeline decodes: some give an image autoencoder all frames at once."""
    own = getattr(pipe, "decode_latents", None)
    if own and geometry_of(pipe.vae).kind == IMAGE and len(inspect.signature(own).parameters) == 1:
        return own(latents)
    return decode(pipe.vae, latents)


def size_of(tensors: Any) -> int:
    """Bytes of tensors, or of modules' weights and buffers."""
    flat: dict[int, Tensor] = {}
    for each in tensors:
        found = [each] if isinstance(each, Tensor) else [*each.parameters(), *each.buffers()]
        flat |= {id(tensor): tensor for tensor in found}
    return sum(math.prod(tensor.shape) * tensor.element_size() for tensor in flat.values())
