"""Video <-> latents by our autoencoder or one of diffusers, normalised: a denoiser sees numbers of about unit size.

An autoencoder gives a normal distribution for each latent (Kingma and Welling 2014): its mean and log-variance are kept
apart from sampling, so that both can be stored. `AutoencoderKL` encodes frame by frame, and so does the one with a
temporal decoder, which decodes them together; the video autoencoders encode their first frame alone and then four or
eight together, so they take 4k+1 or 8k+1 frames.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import ModelError
from ..sizes import ALL, Rule, ShapeRules

IMAGE = "AutoencoderKL"
VIDEO = (
    "AutoencoderKLCogVideoX",
    "AutoencoderKLHunyuanVideo",
    "AutoencoderKLHunyuanVideo15",
    "AutoencoderKLLTXVideo",
    "AutoencoderKLWan",
)
TEMPORAL = "AutoencoderKLTemporalDecoder"  # of Stable Video Diffusion
OURS = ("text2video.models.video_vae", "VideoVAE")  # its module and class
_FRAMES = 8  # frames that an image autoencoder takes at a time


@dataclass
class Latents:
    """What a video was encoded to: a normal distribution, or a point where `logvar` is None."""

    mean: Tensor  # [B, C, t, h, w]
    logvar: Tensor | None = None  # [B, C, t, h, w]

    def sample(self, noise: Tensor) -> Tensor:
        """A draw `[B, C, t, h, w]` from standard normal noise of that shape."""
        return self.mean if self.logvar is None else self.mean + (self.logvar / 2).exp() * noise

    def named(self) -> dict[str, Tensor]:
        """Of one video `[1, ...]`, as it is stored: `mean` and, where there is one, `logvar`, `[C, t, h, w]`."""
        return {"mean": self.mean[0]} | ({} if self.logvar is None else {"logvar": self.logvar[0]})


@dataclass(frozen=True)
class Geometry:
    """Which videos an autoencoder takes, and the shape of their latents.

    Args:
        kind: its class.
        channels: of the latents.
        strides: frames, height and width of the video for each latent.
        first_alone: whether the first frame has a latent of its own.
        frame_step: how many frames are taken together, after a first one that is alone.
    """

    kind: str
    channels: int
    strides: tuple[int, int, int]
    first_alone: bool
    frame_step: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Geometry":
        """From an autoencoder's configuration.

        Raises:
            ModelError: it is of a class that is not known, or not made for three colours.
        """
        kind = config.get("_class_name", "")
        known = (OURS[1], IMAGE, TEMPORAL, *VIDEO)
        if kind not in known:
            raise ModelError(f"The codec is a {kind or 'model without a class'}. Known are {', '.join(known)}.")
        folded = (config.get("patch_size") or 1) ** 2 if kind == "AutoencoderKLWan" else 1  # pixels in its channels
        colours = config.get("in_channels", 3) // folded
        if colours != 3:
            raise ModelError(f"The codec takes {colours} channels, and a video has 3 colours. Choose another codec.")
        channels = config.get("latent_channels") or config.get("z_dim")
        if not channels:
            raise ModelError(f"The codec's config.json does not say its latent_channels. Save the {kind} anew.")
        levels = 2 ** sum(config.get("spatio_temporal_scaling") or [])
        space = config.get("spatial_compression_ratio") or config.get("scale_factor_spatial")
        time = config.get("temporal_compression_ratio") or config.get("scale_factor_temporal")
        if kind == "AutoencoderKLLTXVideo":
            space = space or config["patch_size"] * levels
            time = time or config["patch_size_t"] * levels
        space = space or 2 ** (len(config["block_out_channels"]) - 1)
        framewise = kind in (IMAGE, TEMPORAL)
        time = 1 if framewise else int(time or 4)
        # CogVideoX's decoder takes latents in pairs, of 8 frames
        step = 2 * time if kind == "AutoencoderKLCogVideoX" else time
        return cls(kind, int(channels), (time, int(space), int(space)), not framewise, step)

    @classmethod
    def read(cls, folder: Path) -> "Geometry":
        """Of the autoencoder in a folder, without its weights.

        Raises:
            ModelError: there is none that can be used.
        """
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ModelError(
                f"{str(folder)!r} holds no codec: there is no config.json that can be read. Give the folder of an "
                "autoencoder, such as the `vae` folder of a pipeline."
            ) from None
        return cls.of(config)

    def rules(self, inner: ShapeRules = ALL) -> ShapeRules:
        """The videos that it takes, where `inner` is what a denoiser takes of its latents.

        Raises:
            ModelError: there is no number of frames that suits both.
        """
        time, *space = self.strides
        extra, together = int(self.first_alone), self.frame_step // time
        step = math.lcm(inner.frames.step, together)
        # latents = j + extra, where j comes in steps of what is taken together, and the denoiser has its own multiple
        fits = [j for j in range(0, step, together) if (j + extra) % inner.frames.step == 0]
        if not fits:
            raise ModelError(
                f"The codec, a {self.kind}, gives {together}k+{extra} frames of latents, and the denoiser takes "
                f"multiples of {inner.frames.step}: no video suits both. Set --downsample_time and --patch_size so "
                "that frames are not halved."
            )
        offset = fits[0] * time + extra
        sides = (Rule(stride * rule.step) for stride, rule in zip(space, (inner.height, inner.width), strict=True))
        return ShapeRules(Rule(step * time, offset), *sides)

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """(frames, height, width) of a video -> those of its latents.

        Raises:
            UsageError: the autoencoder cannot take such a video; it names the nearest that it can.
        """
        self.rules().check(shape)
        frames, height, width = shape
        extra = int(self.first_alone)
        return (frames - extra) // self.strides[0] + extra, height // self.strides[1], width // self.strides[2]


def geometry_of(vae: Any) -> Geometry:
    """Of an autoencoder in memory."""
    return Geometry.of({**vae.config, "_class_name": type(vae).__name__})


def library_of(kind: str) -> str:
    """The module that has a class of autoencoders."""
    return OURS[0] if kind == OURS[1] else "diffusers"


def open_codec(folder: Path) -> Any:
    """The autoencoder in a folder, frozen.

    Raises:
        ModelError: there is none that can be used.
    """
    kind = Geometry.read(folder).kind
    try:
        vae = getattr(import_module(library_of(kind)), kind).from_pretrained(folder, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"The codec in {str(folder)!r} cannot be loaded: {reason}") from None
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode(vae: Any, video: Tensor) -> Latents:
    """`[B, 3, T, H, W]` in [-1, 1] -> normalised latents `[B, C, t, h, w]`, float32.

    Videos are encoded one by one: memory stays small, and a video's latents do not depend on its neighbours.
    """
    geometry_of(vae).latent_shape(video.shape[2:])
    means, logvars = zip(*(_encode_one(vae, one) for one in video.to(vae.device, vae.dtype)), strict=True)
    shift, scale = _normalisation(vae)
    mean, logvar = torch.stack(means), torch.stack(logvars)  # [B, C, t, h, w]
    return Latents((mean - shift) / scale, logvar - 2 * scale.log())


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Normalised latents `[B, C, t, h, w]` -> videos `[B, 3, T, H, W]`, about in [-1, 1], float32."""
    latents = _as_encoded(vae, latents)
    if geometry_of(vae).first_alone:
        timestep = [latents.new_zeros(1)] if vae.config.get("timestep_conditioning") else []  # LTX's denoising decoder
        return torch.cat([vae.decode(one[None], *timestep).sample for one in latents]).float()
    temporal = type(vae).__name__ == TEMPORAL
    videos = []
    for one in latents:
        parts = one.transpose(0, 1).split(_FRAMES)
        # each [T, 3, H, W]; a temporal decoder wants to know T
        frames = [vae.decode(part, *([len(part)] if temporal else [])).sample for part in parts]
        videos.append(torch.cat(frames).transpose(0, 1))  # [3, T, H, W]
    return torch.stack(videos).float()


def check_streams(geometry: Geometry) -> None:
    """Whether an autoencoder decodes a video in parts.

    Raises:
        ModelError: it decodes whole videos only.
    """
    if geometry.kind not in (OURS[1], IMAGE):
        raise ModelError(
            f"The codec, a {geometry.kind}, decodes whole videos only, so a stream of its latents has no frames before "
            f"its end. Stream a model of pixels, or of the latents of a {OURS[1]} or an {IMAGE}."
        )


@torch.no_grad()
def decode_stream(vae: Any, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Normalised latents in chunks `[B, C, t, h, w]` -> the frames `[B, 3, T, H, W]` of `decode`, as they come.

    Raises:
        ModelError: it decodes whole videos only.
    """
    check_streams(geometry_of(vae))
    if type(vae).__name__ == IMAGE:
        yield from (decode(vae, chunk) for chunk in chunks)
    else:
        yield from (part.float() for part in vae.decode_stream(_as_encoded(vae, chunk) for chunk in chunks))


def _encode_one(vae: Any, video: Tensor) -> tuple[Tensor, Tensor]:
    """`[3, T, H, W]` -> mean and log-variance `[C, t, h, w]`, as the autoencoder gives them."""
    if geometry_of(vae).first_alone:
        found = vae.encode(video[None]).latent_dist
        return found.mean[0].float(), found.logvar[0].float()
    parts = [vae.encode(part).latent_dist for part in video.transpose(0, 1).split(_FRAMES)]
    mean, logvar = torch.cat([part.mean for part in parts]), torch.cat([part.logvar for part in parts])  # [T, C, h, w]
    return mean.transpose(0, 1).float(), logvar.transpose(0, 1).float()


def _as_encoded(vae: Any, latents: Tensor) -> Tensor:
    """Normalised latents as the autoencoder itself would have given them."""
    shift, scale = _normalisation(vae)
    return (latents.float().to(vae.device) * scale + shift).to(vae.dtype)


def _normalisation(vae: Any) -> tuple[Tensor, Tensor]:
    """What is subtracted from latents, and what they are then divided by: `[C, 1, 1, 1]` or `[1]`."""
    factor = vae.config.get("scaling_factor") or 1.0
    mean, std = (
        value if (value := vae.config.get(name)) is not None else dict(vae.named_buffers()).get(name)
        for name in ("latents_mean", "latents_std")
    )
    if mean is None or std is None:
        mean, std = [vae.config.get("shift_factor") or 0.0], [1.0]
    shift, scale = (torch.as_tensor(value).float().to(vae.device) for value in (mean, std))
    if len(shift) == 1:
        return shift, scale / factor
    return shift.view(-1, 1, 1, 1), scale.view(-1, 1, 1, 1) / factor


def latent_bytes(geometry: Geometry | None, shape: Sequence[int], bytes_per_number: int) -> int:
    """How many bytes mean and log-variance of one video take; without a codec, its pixels."""
    if geometry is None:
        return 3 * math.prod(shape)
    return 2 * geometry.channels * math.prod(geometry.latent_shape(shape)) * bytes_per_number
