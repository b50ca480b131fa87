"""Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127): a first frame comes to life.

A U-Net over latents of single frames, with layers along time. The first frame enters twice: its latents lie beside
those of every frame, and its CLIP embedding is what the cross-attention sees. Frame rate, amount of motion and the
noise on the first frame are told as numbers.

Training follows the public trainer pixeli99/SVD_Xtend: noise levels as in `EDM`, log-normal noise on the first frame,
and both roads of the first frame left out at times, for guidance. A model may also learn to follow texts: see
`svd_text`.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..data.dataset import to_float
from ..diffusion.schedules import EDM
from ..errors import ModelError, UsageError
from ..models.codecs import Latents
from ..models.text import TextEncoder
from .base import AS_USUAL, Defaults, Opening, Published, Task
from .devices import placed
from .pretrained import PretrainedFamily
from .svd_text import TextProjection, TextStableVideoDiffusionPipeline

LICENCE = "stable-video-diffusion-community"
MOTION_BUCKET = 127  # how much clips move, as training says it: clips are not measured
CHUNK = 8  # frames decoded together
NOISE_LOG_MEAN, NOISE_LOG_STD = -3.0, 0.5  # of the noise on first frames in training
DROPPED = 0.1  # of training clips: first frame without embedding, without both, and without latents, each
TEXT_ALONE = 0.5  # of training clips with texts: no first frame, so that the text alone is a task too


class StableVideoDiffusion(PretrainedFamily):
    """`stabilityai/stable-video-diffusion-img2vid` and models of its kind."""

    name = "stable video diffusion"
    pipelines: ClassVar = {"image-to-video": "StableVideoDiffusionPipeline"}
    standard = Defaults(25, 576, 1024, 7.0, 25, 3.0)
    options = frozenset({"motion_bucket_id", "noise_aug_strength", "decode_chunk_size"})
    denoiser_names = ("unet",)
    frozen = ("vae", "image_encoder")
    published = (
        Published("stabilityai/stable-video-diffusion-img2vid", ("image-to-video",), LICENCE, 1.5, 4.5),
        Published("stabilityai/stable-video-diffusion-img2vid-xt", ("image-to-video",), LICENCE, 1.5, 4.5),
    )

    # --- the pipeline -------------------------------------------------------------------------------------------

    def pipeline(self, name: str) -> Any:
        """Diffusers' class, or ours for the models that follow texts."""
        own = TextStableVideoDiffusionPipeline
        return own if name == own.__name__ else super().pipeline(name)

    def open(
        self,
        path: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        trainable_only: bool = False,
        opening: Opening = AS_USUAL,
    ) -> Any:
        """The pipeline in a folder, with the text-to-image pipeline in `opening.parts["image_model"]` beside it.

        Raises:
            ModelError: one of them is not whole.
        """
        parts = dict(opening.parts)
        folder = parts.pop("image_model", None)
        pipe = super().open(path, device, dtype, trainable_only, replace(opening, parts=parts))
        pipe.image_model = open_image_model(folder, device, dtype, opening) if folder else None
        return pipe

    def tasks(self, pipe: Any) -> tuple[Task, ...]:
        """Text to video too where it follows texts, or has an image model that makes the first frame."""
        texts = follows_texts(pipe) or pipe.image_model is not None
        return ("image-to-video", "text-to-video") if texts else ("image-to-video",)

    def standard_of(self, pipe: Any) -> Defaults:
        """14 or 25 frames, as the model was trained."""
        return replace(self.standard, num_frames=pipe.unet.config.num_frames)

    def use_sampler(self, pipe: Any, name: str) -> None:
        """Its own is the only one that takes its noise levels.

        Raises:
            UsageError: another is asked for.
        """
        if name != "euler":
            raise UsageError(f"A {self.name} model has no sampler {name!r}, only euler. Leave out --scheduler.")

    def use_text_encoder(self, pipe: Any, name: str) -> Any:
        """Token embeddings take the place of the first frame's embedding; a projection to their width will learn.

        Raises:
            UsageError: it follows texts already.
            ModelError: the text encoder is not there.
        """
        if follows_texts(pipe):
            raise UsageError(f"The model in {str(pipe.source)!r} has its text encoder: leave out --text_encoder.")
        text = TextEncoder.open(name)
        projection = TextProjection(text.width, pipe.unet.config.cross_attention_dim)
        kept = {part: getattr(pipe, part) for part in ("vae", "unet", "scheduler")}
        own = TextStableVideoDiffusionPipeline(
            **kept, text_encoder=text.model, tokenizer=text.tokenizer, text_projection=projection
        )
        own.source, own.image_model = pipe.source, pipe.image_model
        return own

    def save(self, pipe: Any, folder: Path) -> None:
        """What learned, and links to the rest; a model that has come to follow texts, with its text encoder."""
        super().save(pipe, folder)
        if follows_texts(pipe) and not (folder / "text_encoder").is_dir():
            for part in ("image_encoder", "feature_extractor"):
                shutil.rmtree(folder / part)
            pipe.text_encoder.save_pretrained(folder / "text_encoder", safe_serialization=True)
            pipe.tokenizer.save_pretrained(folder / "tokenizer")
            (folder / "model_index.json").unlink()  # a link to the base model's
            pipe.save_config(folder)

    # --- training -----------------------------------------------------------------------------------------------

    def trainable(self, pipe: Any) -> dict[str, nn.Module]:
        """The U-Net, and the projection of texts."""
        own: dict[str, nn.Module] = {"text_projection": pipe.text_projection} if follows_texts(pipe) else {}
        return self.denoisers(pipe) | own

    def schedule(self, pipe: Any) -> EDM:
        """Continuous noise levels, of any size."""
        return EDM()

    def embed(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        """Token embeddings, or nothing where the first frame's embedding is in their place."""
        return {"encoder_hidden_states": pipe.read(caption)[0].float()} if follows_texts(pipe) else {}  # [L, D]

    def encode_video(self, pipe: Any, video: Tensor) -> Latents:
        """The codec's normalised latents."""
        with wide_enough(pipe.vae):
            return super().encode_video(pipe, video)

    @torch.no_grad()
    def conditions(
        self, pipe: Any, items: Mapping[str, Any], x_0: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """Of the first frames: latents `[B, C, h, w]`, embeddings `[B, 1, D]`, and the numbers `[B, 3]`.

        Raises:
            UsageError: there are no frames.
        """
        if "video" not in items:
            raise UsageError(
                f"A {self.name} model is trained on clips: noise goes on a clip's first frame before it is encoded, "
                "anew every time. Leave out --load_tensors, and name the clips."
            )
        device = x_0.device
        first = to_float(items["video"][:, :, 0].to(device))  # [B, 3, H, W] in [-1, 1]
        noise = torch.stack([torch.randn(first.shape[1:], generator=source) for source in generators]).to(device)
        drawn = torch.stack([torch.randn((), generator=source) for source in generators]).to(device)
        chance = torch.stack([torch.rand((), generator=source) for source in generators]).to(device)
        strength = (NOISE_LOG_MEAN + NOISE_LOG_STD * drawn).exp()  # [B]
        noisy = first + strength.view(-1, 1, 1, 1) * noise
        with wide_enough(pipe.vae):
            latents = torch.cat([pipe._encode_vae_image(one[None], device, 1, False) for one in noisy]).float()
        fps = torch.full_like(strength, self.defaults(pipe).fps - 1)
        numbers = torch.stack([fps, torch.full_like(strength, MOTION_BUCKET), strength], dim=1)
        if follows_texts(pipe):  # captions are left out by the trainer
            latents = latents * (chance >= TEXT_ALONE).view(-1, 1, 1, 1)
            return {"image_latents": latents, "added_time_ids": numbers}
        latents = latents * ((chance < DROPPED) | (chance >= 3 * DROPPED)).view(-1, 1, 1, 1)
        embedding = torch.cat([self.embed_image(pipe, one[None]) for one in first])
        embedding = embedding * (chance >= 2 * DROPPED).view(-1, 1, 1)
        return {"image_latents": latents, "encoder_hidden_states": embedding, "added_time_ids": numbers}

    @staticmethod
    def embed_image(pipe: Any, image: Tensor) -> Tensor:
        """CLIP's embedding `[1, 1, D]` of a frame `[1, 3, H, W]` in [-1, 1], as the pipeline has it of a picture."""
        from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
            _resize_with_antialiasing,
        )

        small = (_resize_with_antialiasing(image.cpu(), (224, 224)) + 1) / 2
        return pipe._encode_image(small, pipe.image_encoder.device, 1, False).float()

    def predict(
        self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Tensor:
        """The U-Net's v, of frames with the first one's latents beside each."""
        hidden, beside, dtype = condition["encoder_hidden_states"], condition["image_latents"], pipe.unet.dtype
        if follows_texts(pipe):
            projection = {"text_projection": pipe.text_projection, **modules}["text_projection"]
            hidden = projection(hidden.to(pipe.text_projection.dtype))
        frames = x_t.transpose(1, 2)  # [B, T, C, h, w]
        sample = torch.cat([frames, beside[:, None].expand_as(frames)], dim=2).to(dtype)
        output = modules["unet"](sample, t, hidden.to(dtype), condition["added_time_ids"], return_dict=False)[0]
        return output.transpose(1, 2)

    # --- generation ---------------------------------------------------------------------------------------------

    def sample(
        self,
        pipe: Any,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        on_step: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """As for all families, where a prompt may first become a picture."""
        if pipe.image_model is None or settings.get("image") is not None or settings.get("video") is not None:
            return super().sample(pipe, prompts, generators, on_step, **settings)
        videos = []
        for prompt, generator in zip(prompts, generators, strict=True):
            picture = {"image": draw_picture(pipe.image_model, prompt, generator, settings)}
            videos.append(super().sample(pipe, [prompt], [generator], on_step, **settings, **picture))
        return torch.cat(videos)

    def kind(self, pipe: Any, task: Task) -> Any:
        """One pipeline does all that its model can."""
        return type(pipe)

    def arguments(self, pipe: Any, task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Guidance rises from 1 at a given first frame, which needs none, to its scale at the last frame."""
        scale = settings["guidance_scale"]
        given = super().arguments(pipe, task, settings)
        lowest = min(1.0, scale) if task == "image-to-video" else scale
        return {"decode_chunk_size": CHUNK, "min_guidance_scale": lowest, "max_guidance_scale": scale} | given


@contextmanager
def wide_enough(vae: Any) -> Iterator[None]:
    """Within, an autoencoder whose numbers are too large for float16 is not in it; the pipeline does the same."""
    narrow = vae.dtype == torch.float16 and vae.config.force_upcast
    if narrow:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if narrow:
            vae.to(torch.float16)


def follows_texts(pipe: Any) -> bool:
    """Whether texts are in the place of the first frame's embedding."""
    return isinstance(pipe, TextStableVideoDiffusionPipeline)


def open_image_model(folder: Path, device: torch.device, dtype: torch.dtype, opening: Opening) -> Any:
    """The text-to-image pipeline in a folder of diffusers.

    Raises:
        ModelError: there is none.
    """
    from diffusers import AutoPipelineForText2Image

    try:
        pipe = AutoPipelineForText2Image.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"The image model in {str(folder)!r} cannot be opened: {reason}") from None
    pipe.set_progress_bar_config(disable=True)
    return placed(pipe, device, opening.offload)


def draw_picture(pipe: Any, prompt: str, generator: torch.Generator, settings: Mapping[str, Any]) -> np.ndarray:
    """A first frame, uint8 `[H, W, 3]`, in the size of the video and with the image model's own steps."""
    asked = {name: settings[name] for name in ("height", "width", "negative_prompt") if settings.get(name)}
    return np.asarray(pipe(prompt, **asked, generator=generator).images[0].convert("RGB"))
