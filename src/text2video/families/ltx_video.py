"""LTX-Video (HaCohen et al. 2024, arXiv:2501.00103): a transformer over the latents of a codec that packs them small.

Flow matching; every latent position is one token with a timestep of its own, so that a first frame is given by leaving
it clean at timestep 0. T5 text with a mask of its padding, rotary positions in seconds and pixels, and a codec whose
decoder takes the last step of denoising itself.

Two kinds of folders are opened: those of `LTXPipeline` (0.9, 0.9.1) and those of `LTXConditionPipeline` (0.9.7), which
place frames in time as the codec does, and can start from a video or take a last frame too.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..diffusion.schedules import Schedule, SizedFlow
from ..errors import UsageError
from .base import Defaults, Published, Task
from .pretrained import PretrainedFamily

_EARLY: tuple[Task, ...] = ("text-to-video", "image-to-video")
_LATER: tuple[Task, ...] = (*_EARLY, "video-to-video")
# How often a clip's first frame is given in training, as in the published trainers
# (Lightricks/LTX-Video-Trainer configs/ltxv_2b_lora.yaml; finetrainers' ltx_video/base_specification.py).
_FIRST_FRAME = 0.1
# For codecs that denoise while decoding: as the documentation of diffusers does for 0.9.1 and later.
_DECODING = {"decode_timestep": 0.05, "decode_noise_scale": 0.025}


class LTXVideo(PretrainedFamily):
    """`Lightricks/LTX-Video` and models of its kind."""

    name = "ltx_video"
    pipelines: ClassVar = {
        "text-to-video": "LTXPipeline",
        "image-to-video": "LTXImageToVideoPipeline",
        "video-to-video": "LTXConditionPipeline",
    }
    standard = Defaults(
        161, 480, 704, 24.0, 50, 3.0, "worst quality, inconsistent motion, blurry, jittery, distorted"
    )  # fmt: skip
    options = frozenset(_DECODING)
    timesteps = "logit_normal"
    comfyui_prefix = "diffusion_model."  # before diffusers' own names
    published = (
        Published("Lightricks/LTX-Video-0.9.1", _EARLY, "other", 1.9, 25.0),
        Published("Lightricks/LTX-Video-0.9.7-dev", _LATER, "LTXV Open Weights", 13.0, 47.6),
    )

    def tasks(self, pipe: Any) -> tuple[Task, ...]:
        """The later pipeline can also start from a video."""
        return _LATER if is_later(pipe) else _EARLY

    def kind(self, pipe: Any, task: Task) -> Any:
        """The later pipeline does all tasks by itself."""
        return type(pipe) if is_later(pipe) else super().kind(pipe, task)

    def schedule(self, pipe: Any) -> Schedule:
        """Shifted by the size of the video: as its scheduler says, or as in the published trainer.

        That is Lightricks/LTX-Video-Trainer's `ShiftedLogitNormalTimestepSampler`, of the same numbers.
        """
        config = pipe.scheduler.config
        if not config.use_dynamic_shifting:
            return SizedFlow(num_timesteps=config.num_train_timesteps)
        line = (config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift)
        return SizedFlow(*line, num_timesteps=config.num_train_timesteps)

    def use_sampler(self, pipe: Any, name: str) -> None:
        """Its own alone: it places its steps itself.

        Raises:
            UsageError: it is another.
        """
        if name != "flow":
            raise UsageError(f"A {self.name} model has no sampler {name!r}. Choose flow, or leave out --scheduler.")

    def embed(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        """T5's token embeddings and the mask of their padding."""
        found, mask, *_ = pipe.encode_prompt(caption, do_classifier_free_guidance=False, device=pipe.device)
        return {"encoder_hidden_states": found[0], "encoder_attention_mask": mask[0]}  # [L, D], [L]

    def conditions(
        self, pipe: Any, items: Mapping[str, Any], x_0: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """The latents of first frames, and whether they are given: some are.

        The codec is causal without exception: a video's first latents are those of its first frame alone.
        """
        given = torch.stack([torch.rand((), generator=generator) < _FIRST_FRAME for generator in generators])
        given &= x_0.shape[2] > 1  # a picture is not given itself
        return {"first_frame": x_0[:, :, :1], "first_frame_given": given.to(x_0.device)}

    def predict(
        self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Tensor:
        """The transformer's velocity; where a first frame is given, the true one, so that it adds nothing to a loss."""
        config, dtype = pipe.transformer.config, pipe.transformer.dtype
        patches = (config.patch_size, config.patch_size_t)
        sample, timestep = x_t, t
        clean, given = condition.get("first_frame"), torch.zeros(())
        if clean is not None:
            given = condition["first_frame_given"].view(-1, 1, 1, 1, 1) & first_of(x_t)  # [B, 1, t, h, w]
            sample = torch.where(given, clean, x_t)
            timestep = pipe._pack_latents(t.view(-1, 1, 1, 1, 1) * ~given, *patches).squeeze(-1)  # [B, S]
        output = modules["transformer"](
            hidden_states=pipe._pack_latents(sample, *patches).to(dtype),  # [B, S, C]
            encoder_hidden_states=condition["encoder_hidden_states"].to(dtype),
            encoder_attention_mask=condition["encoder_attention_mask"],
            timestep=timestep,
            **positions(pipe, x_t, self.defaults(pipe).fps),
            return_dict=False,
        )[0]
        velocity = pipe._unpack_latents(output, *x_t.shape[2:], *patches)
        if clean is None:
            return velocity
        sigma = (t / pipe.scheduler.config.num_train_timesteps).view(-1, 1, 1, 1, 1)
        return torch.where(given, (x_t - clean) / sigma, velocity.float())

    def sample(
        self,
        pipe: Any,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        on_step: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """As every family. The decoder of 0.9.1 draws noise from torch's own generator, which starts from the seed."""
        videos, device = [], pipe._execution_device
        for prompt, generator in zip(prompts, generators, strict=True):
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(generator.initial_seed())
                videos.append(super().sample(pipe, [prompt], [generator], on_step, **settings))
        return torch.cat(videos)

    def arguments(self, pipe: Any, task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
        """With the frame rate, what the codec's last step of denoising needs, and the pictures to start from."""
        decoding = _DECODING if pipe.vae.config.timestep_conditioning else {}
        given = super().arguments(pipe, task, {**decoding, **settings, "frame_rate": settings["fps"]})
        if not is_later(pipe):
            return given
        if "video" in given:  # as a condition it would stay as it is
            given["latents"] = latents_of(pipe, given.pop("video"))
            given["denoise_strength"] = given.pop("strength", 0.8)
        if "last_image" in settings:
            from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
            from PIL import Image

            last = Image.fromarray(settings["last_image"])
            ends = [LTXVideoCondition(given.pop("image")), LTXVideoCondition(last, frame_index=given["num_frames"] - 1)]
            given["conditions"] = ends
        return given


def is_later(pipe: Any) -> bool:
    """Whether it is of the second kind."""
    return type(pipe).__name__ == "LTXConditionPipeline"


@torch.no_grad()
def latents_of(pipe: Any, frames: Sequence[Any]) -> Tensor:
    """Pictures -> normalised latents `[1, C, t, h, w]`, also where the codec comes to the GPU only to work."""
    pixels = pipe.video_processor.preprocess_video(frames).to(pipe._execution_device, pipe.vae.dtype)
    mean = pipe.vae.encode(pixels).latent_dist.mode()
    return pipe._normalize_latents(mean, pipe.vae.latents_mean, pipe.vae.latents_std, pipe.vae.config.scaling_factor)


def first_of(x: Tensor) -> Tensor:
    """`[1, 1, t, h, w]`: true in the first frame of latents."""
    first = torch.zeros((1, 1, *x.shape[2:]), dtype=torch.bool, device=x.device)
    first[:, :, 0] = True
    return first


def positions(pipe: Any, x: Tensor, fps: float) -> dict[str, Any]:
    """Where the tokens lie in seconds and pixels, in the words of the transformer."""
    time, space = pipe.vae_temporal_compression_ratio, pipe.vae_spatial_compression_ratio
    frames, height, width = x.shape[2:]
    if not is_later(pipe):
        scale = (time / fps, space, space)
        return {"num_frames": frames, "height": height, "width": width, "rope_interpolation_scale": scale}
    config = pipe.transformer.config
    places = pipe._prepare_video_ids(len(x), frames, height, width, config.patch_size, config.patch_size_t, x.device)
    places = pipe._scale_video_ids(places, space, time, 0, x.device).float()  # [B, 3, S]
    places[:, 0] /= fps
    return {"video_coords": places}
