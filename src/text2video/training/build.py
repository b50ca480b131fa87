"""A run's parts from its configuration: family, pipeline, objective, length, precision."""

import logging
import math
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer

from ..config import RunConfig
from ..data.cache import Cache
from ..diffusion.objectives import Objective, TextToVideoDiffusion
from ..errors import UsageError
from ..families import inflation, lora
from ..families.autoencoder import Autoencoder
from ..families.base import Family, Opening
from ..families.devices import choose_device
from ..families.frozen import Frozen, prepared_settings
from ..families.gan import VideoGAN
from ..families.imports import construct, import_class
from ..families.native import NativeFamily, schedule_of
from ..families.opening import family_of, model_folder
from ..models.codecs import Geometry
from ..models.discriminator import PatchDiscriminator
from ..models.gan import STRIDES
from ..models.perceptual import ClipFeatures, LaplacianFeatures
from ..models.transformer import VideoTransformer
from ..sections import GANS, TrainConfig
from ..sizes import Bucket, ShapeRules
from ..streaming import block_of, is_causal
from .adversarial import Adversarial
from .data import Sampler
from .from_images import check_inflated, inflate_frames, learning_along_time
from .reconstruction import Reconstruction

logger = logging.getLogger("text2video")

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
Base = tuple[Family, Any]
"""The family and the pipeline that a run starts from."""


def open_base(config: RunConfig, trainable_only: bool = False) -> Base | None:
    """The model that a run starts from, on the CPU; None where it starts from nothing.

    An adapter leaves the model's weights as they are, so they are held in the precision that the run computes in.

    Args:
        trainable_only: leave its frozen parts on the disk, as where their work was done ahead.

    Raises:
        ModelError: it cannot be opened.
        UsageError: it cannot be held as the configuration asks.
    """
    if config.train.init_from is None:
        if config.train.parts:
            raise UsageError("--motion_adapter goes with a model of images. Name that one by --model.")
        return None
    folder = model_folder(config.train.init_from)
    if lora.base_of(folder):
        raise UsageError(f"{folder} is an adapter. Start from its base model, {lora.base_of(folder)}.")
    if config.memory.block_offload and choose_device(config.train.device).type == "cpu":
        raise UsageError(
            "--block_offload keeps weights out of a GPU's memory, and the device is the CPU: leave it out here. "
            "--quantize int8 and --layerwise_casting work on a CPU too."
        )
    if inflation.is_stable_diffusion(folder) and not config.train.parts:
        check_inflated(config)
        logger.info(
            "%s is a model of images: it gets new layers along time. By --motion_adapter it would be AnimateDiff",
            folder,
        )
        torch.manual_seed(config.seed)  # of what is new in it
        return NativeFamily(), inflation.open_stable_diffusion(folder)
    half = config.lora and choose_precision(config.train.mixed_precision, config.train.device)
    dtype = HALF.get(half or "", torch.float32)
    family = family_of(folder)
    opening = Opening(parts=config.train.parts, quantize=config.memory.quantize)
    left = trainable_only or bool(config.data.load_tensors)
    pipe = family.open(folder, torch.device("cpu"), dtype, left, opening)
    family.trainable(pipe)  # one that cannot be trained says so before the data is looked at
    return family, pipe


def shape_rules(config: RunConfig, base: Base | None = None) -> ShapeRules:
    """What the model of a run can take. Data is opened by it, before the model is built from the data's captions."""
    if base:
        family, pipe = base
        return family.rules(pipe)
    with torch.device("meta"):  # no memory, and nothing drawn
        if config.model.kind == "vae":
            return Autoencoder().create(config).vae.rules
        if config.model.kind in GANS:
            return ShapeRules.multiples(*STRIDES)
        inner = construct(NativeFamily.denoiser, config, 1).rules
    return Geometry.read(config.model.codec).rules(inner) if config.model.codec else inner


def build(
    config: RunConfig,
    captions: list[str],
    shape: Bucket,
    base: Base | None = None,
    begun: Path | None = None,
    cache: Cache | None = None,
) -> tuple[Family, Any, Objective]:
    """The family, pipeline and objective of a run: new, or of the model that it starts from.

    A model that is started from keeps its own architecture, text encoder, schedule, prediction and sampler.

    Args:
        captions: that the built-in tokenizer is made from.
        shape: what the model makes when it is not told otherwise.
        base: see `open_base`.
        begun: model folder of this run's checkpoint, whose tokenizer is kept.
        cache: prepared data, in place of the model's frozen parts, which are left on the disk.

    Raises:
        UsageError: the prepared data is not what these parts would have made of the clips.
    """
    if config.model.kind == "vae" or (base and isinstance(base[0], Autoencoder)):
        return build_autoencoder(config, base, begun)
    if config.model.kind in GANS or (base and isinstance(base[0], VideoGAN)):
        return build_gan(config, captions, shape, base, begun)
    frozen = check_prepared(config, cache) if cache else Frozen()
    diffusion = config.diffusion
    if base:
        family, pipe = base
        inflate_frames(config, family, pipe)
        if config.text.text_encoder != "builtin":
            if config.lora:
                raise UsageError("--lora leaves the text encoder as it is: leave out --text_encoder, or --lora.")
            torch.manual_seed(config.seed)
            pipe = family.use_text_encoder(pipe, config.text.text_encoder)
        family.adapt(pipe, shape, config.data.fps)
        schedule, prediction = family.schedule(pipe), family.prediction(pipe)
        logger.info(
            "starts from %s: architecture, text encoder, schedule and prediction are that model's",
            config.train.init_from,
        )
    else:
        family = NativeFamily()
        schedule = schedule_of(diffusion)
        prediction = diffusion.prediction
        torch.manual_seed(config.seed)
        tokenizer = AutoTokenizer.from_pretrained(begun / "tokenizer") if begun else None
        parts = cache.folder / "parts" if cache else None
        pipe = construct(family.create, config, captions, shape, tokenizer, parts)
    if cache and frozen.text:
        family.embeddings = cache.embedding
    kind = import_class(diffusion.objective) if diffusion.objective else TextToVideoDiffusion
    objective = construct(
        kind,
        schedule=schedule,
        num_timesteps=schedule.num_timesteps,
        shift=schedule.shift,
        prediction=prediction,
        weighting=diffusion.weighting,
        min_snr_gamma=diffusion.min_snr_gamma,
        timesteps=diffusion.timesteps or family.timesteps,
        logit_mean=diffusion.logit_mean,
        logit_std=diffusion.logit_std,
        edge_weight=diffusion.edge_weight,
        **(forced(family, pipe) if diffusion.forcing == "independent" else {}),
    )
    return family, pipe, objective


def build_autoencoder(config: RunConfig, base: Base | None, begun: Path | None) -> tuple[Family, Any, Objective]:
    """The same of a run that trains a video autoencoder; what of it does not learn comes from `begun`."""
    settings = config.vae
    given = {"--lora": config.lora, "--load_tensors": config.data.load_tensors, "--codec": config.model.codec}
    given["--sharding"] = config.train.sharding != "none"
    if names := [name for name, value in given.items() if value]:
        raise UsageError(f"A video autoencoder is trained whole, on pixels: leave out {' and '.join(names)}.")
    torch.manual_seed(config.seed)
    family, pipe = base or (Autoencoder(), Autoencoder().create(config))
    if begun:
        pipe = family.open(begun, torch.device("cpu"), torch.float32)
    if not isinstance(family, Autoencoder):
        raise UsageError(
            f"model.kind is vae, and the model in {config.train.init_from} is of the family {family.name}. Start from "
            "an autoencoder, or leave out --kind."
        )
    if settings.adversarial_weight:
        pipe.discriminator = PatchDiscriminator(width=settings.discriminator_width)
    features = ClipFeatures(settings.perceptual_model) if settings.perceptual_model else LaplacianFeatures()
    objective = Reconstruction(
        settings.reconstruction,
        settings.kl_weight,
        features if settings.perceptual_weight else None,
        settings.perceptual_weight,
        pipe.discriminator,
        settings.adversarial_weight,
        settings.adversarial_start,
    )
    return family, pipe, objective


def build_gan(
    config: RunConfig, captions: list[str], shape: Bucket, base: Base | None, begun: Path | None
) -> tuple[Family, Any, Objective]:
    """The same of a run that trains a generator against a discriminator."""
    if base:
        raise UsageError(
            f"A GAN begins with nothing, so that neither player is ahead, and not with {config.train.init_from}: leave "
            "out --init_from. Its own run goes on by --resume."
        )
    given = {"--lora": config.lora, "--load_tensors": config.data.load_tensors, "--codec": config.model.codec}
    given |= {"--sharding": config.train.sharding != "none", "--buckets": config.data.buckets}
    given["--gradient_checkpointing"] = config.train.gradient_checkpointing
    given["--text_encoder"] = config.text.text_encoder != "builtin"
    given |= {"--num_inference_steps": config.preview.num_inference_steps, "--scheduler": config.preview.scheduler}
    if names := [name for name, value in given.items() if value]:
        raise UsageError(
            f"A {config.model.kind} is trained whole, on pixels of one shape, with the built-in text encoder, and "
            f"makes a video in one step: leave out {' and '.join(names)}."
        )
    torch.manual_seed(config.seed)
    tokenizer = AutoTokenizer.from_pretrained(begun / "tokenizer") if begun else None
    family = VideoGAN()
    pipe: Any = family.create(config, captions, shape, tokenizer)
    return family, pipe, Adversarial(pipe.discriminator)


def forced(family: Family, pipe: Any) -> dict[str, Any]:
    """What the objective is told where blocks of frames have noise levels of their own.

    Raises:
        UsageError: the denoiser knows one level for all frames only.
    """
    (model, *others) = family.denoisers(pipe).values()
    if others or not is_causal(model):
        raise UsageError(
            f"--forcing independent gives each block of frames its own noise level, and a {type(model).__name__} like "
            "this one has no such blocks. Choose --kind transformer --time_attention causal, or leave it out."
        )
    return {"forcing": "independent", "block": block_of(model)}


def learning(config: RunConfig, family: Family, pipe: Any) -> dict[str, nn.Module]:
    """The modules that a run trains, component name -> module; what trains of them, and only that, has gradients.

    Raises:
        UsageError: an adapter fits none of their layers, or there is no model for it to adapt.
    """
    settings = config.lora
    if config.optim.spatial != "free":
        return learning_along_time(config, family, pipe)
    if settings is None:
        parts = family.trainable(pipe)
        for component, part in parts.items():
            for name, parameter in part.named_parameters():
                parameter.requires_grad_(family.learns(f"{component}.{name}"))
        return parts
    if config.train.init_from is None:
        raise UsageError("--lora trains an adapter of a model that is there already. Name it by --model.")
    parts = family.denoisers(pipe)
    torch.manual_seed(config.seed)
    lora.add(
        parts,
        settings.targets or family.lora_targets,
        rank=settings.rank,
        alpha=settings.alpha,
        rslora=settings.rslora,
        dora=settings.dora,
        dropout=settings.lora_dropout,
    )
    return parts


def check_prepared(config: RunConfig, cache: Cache) -> Frozen:
    """The frozen parts whose work the cache holds.

    Raises:
        UsageError: it was made with other parts or sizes than the configuration's; all differences are named.
    """
    frozen = Frozen.of(config)
    wanted = prepared_settings(config, frozen, cache.settings.video["dtype"])
    parts = [cache.folder / "parts" / name for name in ("vae", "text_encoder")]
    codec, text = (path if path.is_dir() else None for path in parts)
    if frozen.marks() == Frozen(codec, str(text) if text else None).marks():  # a model that was trained on this data
        prepared = cache.settings
        video = {**wanted.video, "codec_content": prepared.video["codec_content"]}
        words = {**wanted.text, "text_encoder_content": prepared.text["text_encoder_content"]}
        wanted = replace(wanted, video=video, text=words)
    if changes := wanted.changes(cache.settings):
        raise UsageError(
            f"{cache.folder} was prepared for another run: {'; '.join(changes)}. Take the options that it was prepared "
            "with, or give `text2video data prepare` with those of this run: it encodes anew only what they change."
        )
    return frozen


def steps_in_all(config: TrainConfig, sampler: Sampler) -> int:
    """Steps of a run: its epochs, or `max_steps` if that is less. Each step is one of the sampler's batches."""
    epochs = sampler.steps(config.num_epochs)
    return min(epochs, config.max_steps or epochs)


def tokens_of(family: Family, pipe: Any, shape: Bucket) -> int:
    """How many tokens a video of a shape is in the denoiser.

    Raises:
        UsageError: the denoiser takes no packed clips.
    """
    kinds = [type(denoiser).__name__ for denoiser in family.denoisers(pipe).values()]
    if not isinstance(denoiser := getattr(pipe, "transformer", None), VideoTransformer):
        raise UsageError(
            f"--pack needs a model that takes clips of different sizes in one row: --kind transformer. This one "
            f"is a {' and a '.join(kinds)}. Leave out --pack; --buckets sorts clips by size for it."
        )
    sizes = pipe.geometry.latent_shape(shape) if pipe.geometry else shape
    return math.prod(size // step for size, step in zip(sizes, denoiser.strides, strict=True))


def choose_precision(name: str, device: str) -> str:
    """The mixed precision that accelerate is told; auto is bf16 where this machine computes it fast."""
    if name == "fp16" and not (device in ("auto", "cuda") and torch.cuda.is_available()):
        raise UsageError("--mixed_precision fp16 needs an NVIDIA GPU. Choose bf16, no, or auto.")
    if name != "auto":
        return name
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    if device in ("auto", "mps") and torch.backends.mps.is_available():
        return "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile can work: it needs a C++ compiler on a CPU, and Triton on a GPU."""
    if device.type == "cuda":
        return find_spec("triton") is not None
    return any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))
