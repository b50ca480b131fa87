"""Video autoencoders and tokenizers as families: the codecs of other models, trained by the same loop as they are."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import ModelError, UsageError
from ..models.video_tokenizer import VideoTokenizer
from ..models.video_vae import VideoVAE
from ..pipelines import aligned
from ..sizes import ShapeRules
from .base import AS_USUAL, Defaults, Opening, Task
from .devices import placed
from .imports import construct
from .own import WithoutLevels

if TYPE_CHECKING:
    from ..config import RunConfig


DENOISES_NOTHING = "A video autoencoder denoises nothing: it has no schedule, no sampler and no prompts."


class ReconstructionPipeline(DiffusionPipeline):
    """A folder with a model in it that gives back videos."""

    codec_name: ClassVar[str]
    discriminator: nn.Module | None = None  # that it is trained against; never saved with it

    @property
    def codec(self) -> Any:
        """The model."""
        return getattr(self, self.codec_name)

    @torch.no_grad()
    def __call__(self, video: Tensor) -> Tensor:
        """Videos `[B, 3, T, H, W]` in [-1, 1] through their latents and back, one by one."""
        given = video.to(self.device, self.codec.dtype)
        return torch.cat([self.codec(one[None]).sample for one in given]).float().clamp(-1, 1)


class VideoAutoencoderPipeline(ReconstructionPipeline):
    """A folder with an autoencoder in it.

    Args:
        vae: the autoencoder.
    """

    codec_name = "vae"

    def __init__(self, vae: Any):
        super().__init__()
        self.register_modules(vae=vae)


class VideoTokenizerPipeline(ReconstructionPipeline):
    """A folder with a tokenizer of video in it.

    Args:
        video_tokenizer: the tokenizer.
    """

    codec_name = "video_tokenizer"

    def __init__(self, video_tokenizer: Any):
        super().__init__()
        self.register_modules(video_tokenizer=video_tokenizer)


class Autoencoder(WithoutLevels):
    """`VideoVAE` alone. It denoises nothing and makes no videos from text: what trains is the objective's business."""

    model: ClassVar[Any] = VideoVAE
    pipeline: ClassVar[Any] = VideoAutoencoderPipeline
    name = "autoencoder"
    denoiser_names: tuple[str, ...] = ("vae",)
    no_levels = DENOISES_NOTHING

    def create(self, config: "RunConfig") -> Any:
        """An untrained one."""
        codec = construct(self.model, **config.model.model_args)
        if (colours := codec.config["in_channels"]) != 3:
            raise UsageError(f"in_channels of this model is {colours}, and videos have 3 channels: leave it out.")
        return self.pipeline(codec)

    def open(
        self,
        path: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        trainable_only: bool = False,
        opening: Opening = AS_USUAL,
    ) -> Any:
        """The autoencoder in a folder.

        Raises:
            ModelError: it cannot be loaded.
        """
        if opening.parts or opening.variant:
            raise UsageError("An autoencoder trained here takes no --variant and no further parts: leave them out.")
        try:
            codec = self.model.from_pretrained(path / self.pipeline.codec_name, use_safetensors=True, dtype=dtype)
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelError(f"The autoencoder in {str(path)!r} cannot be loaded: {error}") from None
        return placed(self.pipeline(aligned(codec).eval()), device, opening.offload)

    def tasks(self, pipe: Any) -> tuple[Task, ...]:
        """Videos given back."""
        return ("reconstruction",)

    def rules(self, pipe: Any) -> ShapeRules:
        """The videos that it can take."""
        return pipe.codec.rules

    def defaults(self, pipe: Any) -> Defaults:
        """It makes nothing.

        Raises:
            UsageError: always.
        """
        raise UsageError(DENOISES_NOTHING)

    def denoisers(self, pipe: Any) -> dict[str, nn.Module]:
        """The autoencoder."""
        return {pipe.codec_name: pipe.codec}

    def trainable(self, pipe: Any) -> dict[str, nn.Module]:
        """The autoencoder, and the discriminator that it is trained against."""
        judging = {} if pipe.discriminator is None else {"discriminator": pipe.discriminator}
        return {**self.denoisers(pipe), **judging}

    def learns(self, name: str) -> bool:
        """All weights but those of the linear code: it is the best there is already, and a network around it that has
        learned nothing yet would only shake it."""
        return not name.startswith("vae.linear.")

    @torch.no_grad()
    def begin(self, pipe: Any, videos: Callable[[], Iterable[Tensor]]) -> None:
        """Fits the linear code to the principal components of patches of these videos."""
        pipe.vae.fit_linear(videos())

    @torch.no_grad()
    def settle(self, pipe: Any, videos: Callable[[], Iterable[Tensor]]) -> None:
        """Measures the latents of these videos, so that a denoiser sees numbers of about unit size."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for video in videos():
            found = pipe.vae.encode(video.to(pipe.device, pipe.vae.dtype)).latent_dist
            means = found.mean.double().transpose(0, 1).flatten(1).cpu()  # [C, N]
            spread = found.var.double().transpose(0, 1).flatten(1).cpu()
            count += means.shape[1]
            total, squares = total + means.sum(1), squares + (means.square() + spread).sum(1)
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
        pipe.vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())

    def encode_text(self, pipe: Any, modules: dict[str, nn.Module], captions: Sequence[str]) -> dict[str, Tensor]:
        """It reads no captions."""
        return {}

    def predict(
        self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Any:
        """Videos given back, with the distribution of their latents; or, to `judge`, the discriminator's judgements.

        A latent's noise is taken from the video's: there are more numbers in it than are needed.
        """
        if condition.get("judge"):
            return modules["discriminator"](x_t)
        return self.reconstruct(pipe, modules, x_t, condition)

    def reconstruct(self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, condition: dict[str, Any]) -> Any:
        """See `predict`."""
        shape = latent_shape(pipe.vae, x_t.shape)
        noise = condition["noise"].flatten(1)[:, : shape[1:].numel()].reshape(shape)
        return modules["vae"](x_t, noise)

    def sample(
        self,
        pipe: Any,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        on_step: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """It makes nothing.

        Raises:
            UsageError: always.
        """
        raise UsageError(DENOISES_NOTHING)


class Tokenizer(Autoencoder):
    """`VideoTokenizer` alone; for the rest as `Autoencoder`."""

    model: ClassVar[Any] = VideoTokenizer
    pipeline: ClassVar[Any] = VideoTokenizerPipeline
    name = "tokenizer"
    denoiser_names = ("video_tokenizer",)

    def learns(self, name: str) -> bool:
        """All weights: rounded, latents are not the principal components that the linear code began with."""
        return True

    @torch.no_grad()
    def begin(self, pipe: Any, videos: Callable[[], Iterable[Tensor]]) -> None:
        """Fits the linear code to these videos, and a codebook to their latents."""
        torch.manual_seed(0)  # which latents a codebook begins with
        pipe.video_tokenizer.fit(videos())

    def settle(self, pipe: Any, videos: Callable[[], Iterable[Tensor]]) -> None:
        """Nothing."""

    def reconstruct(self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, condition: dict[str, Any]) -> Any:
        """Videos given back, with the quantiser's own loss."""
        return modules["video_tokenizer"](x_t)


# `model.kind` -> the family.
AUTOENCODERS: dict[str, type[Autoencoder]] = {"vae": Autoencoder, "tokenizer": Tokenizer}


def latent_shape(vae: Any, video: Sequence[int]) -> torch.Size:
    """`[B, 3, T, H, W]` -> the shape of its latents."""
    size, _, frames, height, width = video
    time, high, wide = vae.strides
    return torch.Size((size, vae.config["latent_channels"], 1 + (frames - 1) // time, height // high, width // wide))
