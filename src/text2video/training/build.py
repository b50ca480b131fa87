"""A run's parts from its configuration: family, pipeline, objective, length."""

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer

from ..config import RunConfig
from ..data.cache import Cache
from ..data.conditions import Wanted
from ..diffusion.objectives import Objective, TextToVideoDiffusion
from ..errors import UsageError
from ..families import lora
from ..families.autoencoder import AUTOENCODERS, Autoencoder, Tokenizer
from ..families.autoregressive import Autoregressive, tokenizer_folder
from ..families.base import Conditioned, Family
from ..families.frozen import Frozen, prepared_settings
from ..families.gan import VideoGAN
from ..families.imports import construct, import_class
from ..families.native import NativeFamily, described, schedule_of
from ..models.codecs import Geometry
from ..models.conditions import make
from ..models.discriminator import PatchDiscriminator
from ..models.gan import STRIDES
from ..models.perceptual import ClipFeatures, LaplacianFeatures
from ..models.transformer import VideoTransformer
from ..models.video_tokenizer import tokenizer_rules
from ..sections import GANS, TrainConfig
from ..sizes import Bucket, ShapeRules
from ..streaming import block_of, is_causal
from .adversarial import Adversarial
from .data import Sampler
from .from_images import inflate_frames, learning_along_time
from .next_token import NextToken
from .reconstruction import Reconstruction, TokenReconstruction
from .starting import Base

logger = logging.getLogger("text2video")


def shape_rules(config: RunConfig, base: Base | None = None) -> ShapeRules:
    """What the model of a run can take. Data is opened by it, before the model is built from the data's captions."""
    if base:
        family, pipe = base
        return family.rules(pipe)
    with torch.device("meta"):  # no memory, and nothing drawn
        if kind := AUTOENCODERS.get(config.model.kind):
            return kind().create(config).codec.rules
        if config.model.kind == "autoregressive":
            return tokenizer_rules(tokenizer_folder(config))
        if config.model.kind in GANS:
            return ShapeRules.multiples(*STRIDES)
        inner = NativeFamily.denoiser(config, 1).rules
    return Geometry.read(config.model.codec).rules(inner) if config.model.codec else inner


def conditions_of_run(config: RunConfig, base: Base | None = None) -> dict[str, Wanted]:
    """What a run's model is told besides captions: as configured, or of the model that it starts from.

    Raises:
        UsageError: that model knows no such condition.
        ModelError: there is no such kind.
    """
    asked = config.model.conditions
    if base:
        family, pipe = base
        own = family.own_conditions(pipe) if isinstance(family, Conditioned) else {}
        if unknown := sorted(set(asked) - set(own)):
            raise UsageError(
                f"{config.train.init_from} has no condition {', '.join(unknown)}, and a model that is started from "
                f"keeps its own: {', '.join(own) or 'it has none'}."
            )
    else:
        own = {name: make(name, **how) for name, how in described(config.model).items()}
    return {
        name: Wanted(kind.read, (asked[name].source if name in asked else None) or name, kind.media, kind.of_clip)
        for name, kind in own.items()
    }


def build(
    config: RunConfig,
    captions: list[str],
    shape: Bucket,
    base: Base | None = None,
    begun: Path | None = None,
    cache: Cache | None = None,
    device: str = "cpu",
) -> tuple[Family, Any, Objective]:
    """The family, pipeline and objective of a run: new, or of the model that it starts from.

    A model that is started from keeps its own architecture, text encoder, schedule, prediction and sampler.

    Args:
        captions: that the built-in tokenizer is made from.
        shape: what the model makes when it is not told otherwise.
        base: see `open_base`.
        begun: model folder of this run's checkpoint, whose tokenizer is kept.
        cache: prepared data, in place of the model's frozen parts, which are left on the disk.
        device: that a new denoiser is made on; on "meta" it takes no memory.

    Raises:
        UsageError: the prepared data is not what these parts would have made of the clips.
    """
    if config.model.kind in AUTOENCODERS or (base and isinstance(base[0], Autoencoder)):
        return build_autoencoder(config, base, begun)
    if config.model.kind == "autoregressive" or (base and isinstance(base[0], Autoregressive)):
        return build_autoregressive(config, captions, shape, base, begun, device)
    if config.model.kind in GANS:
        return build_gan(config, captions, shape, begun)
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
        pipe = family.create(config, captions, shape, tokenizer, parts, device)
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
    judged = [name for name in ("adversarial_weight", "perceptual_weight") if getattr(settings, name)]
    if judged and min(config.data.size) < 8:
        raise UsageError(
            f"vae.{judged[0]} is for videos of at least 8 x 8 pixels, and these are {config.data.shape}: make them "
            "larger, or leave it out."
        )
    torch.manual_seed(config.seed)
    kind = AUTOENCODERS.get(config.model.kind, Autoencoder)
    family, pipe = base or (kind(), kind().create(config))
    if begun:
        pipe = family.open(begun, torch.device("cpu"), torch.float32)
    if settings.adversarial_weight:
        pipe.discriminator = PatchDiscriminator(width=settings.discriminator_width)
    features = ClipFeatures(settings.perceptual_model) if settings.perceptual_model else LaplacianFeatures()
    objective = (TokenReconstruction if isinstance(family, Tokenizer) else Reconstruction)(
        settings.reconstruction,
        settings.kl_weight,
        features if settings.perceptual_weight else None,
        settings.perceptual_weight,
        pipe.discriminator,
        settings.adversarial_weight,
        settings.adversarial_start,
    )
    return family, pipe, objective


def build_autoregressive(
    config: RunConfig, captions: list[str], shape: Bucket, base: Base | None, begun: Path | None, device: str
) -> tuple[Family, Any, Objective]:
    """The same of a run that trains an autoregressive model over a video's tokens; arguments as of `build`."""
    if config.data.load_tensors:
        raise UsageError(
            "An autoregressive model makes tokens of its clips as it goes, which takes little time: give the clips in "
            "place of --load_tensors."
        )
    if base:
        family, pipe = base
        family.adapt(pipe, shape, config.data.fps)
    else:
        family = Autoregressive()
        torch.manual_seed(config.seed)
        tokenizer = AutoTokenizer.from_pretrained(begun / "tokenizer") if begun else None
        # what a token means must not change on the way: a run goes on with its own copy of the tokenizer of video
        pipe = family.create(config, captions, shape, tokenizer, begun, device)
    return family, pipe, NextToken()


def build_gan(
    config: RunConfig, captions: list[str], shape: Bucket, begun: Path | None
) -> tuple[Family, Any, Objective]:
    """The same of a run that trains a generator against a discriminator."""
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
