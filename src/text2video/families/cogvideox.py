"""CogVideoX (Yang et al. 2024, arXiv:2408.06072): a transformer over text and video tokens together.

Latents of a causal video autoencoder, T5 text of a fixed number of tokens, v-prediction on a schedule that is shifted
to more noise and ends in nothing but noise. The 2B model has sinusoidal positions, the 5B models rotary ones. Version
1.5 takes latent frames in pairs; where a video has an odd number of them, its first one is there twice, and the copy is
dropped before decoding. Image-to-video models get the latents of the first frame beside the noisy ones, padded by zeros
in time.

The published trainers weigh the error of x_0 by 1 / (1 - alpha^2). Since x_0 = alpha x_t - sigma v, that error is sigma
times the error of v, and the weight 1 / sigma^2: the same number as the unweighted error of v, factor 1.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import DataError, UsageError
from ..models.codecs import Latents
from ..sizes import Rule, ShapeRules
from .base import Defaults, Published, Task
from .pretrained import PretrainedFamily

_BOTH: tuple[Task, ...] = ("text-to-video", "video-to-video")
_TEXT: tuple[Task, ...] = ("text-to-video",)
_IMAGE: tuple[Task, ...] = ("image-to-video",)
# The noise on first frames, and how often there is no frame at all, as in the published trainers
# (diffusers' examples/cogvideo/train_cogvideox_image_to_video_lora.py): so that models do not hold on to it too much.
_NOISE_MEAN, _NOISE_STD, _IMAGE_DROPOUT = -3.0, 0.5, 0.05


class CogVideoX(PretrainedFamily):
    """`zai-org/CogVideoX-2b` and models of its kind, versions 1.0 and 1.5."""

    name = "cogvideox"
    pipelines: ClassVar = {
        "text-to-video": "CogVideoXPipeline",
        "image-to-video": "CogVideoXImageToVideoPipeline",
        "video-to-video": "CogVideoXVideoToVideoPipeline",
    }
    standard = Defaults(49, 480, 720, 8.0, 50, 6.0)
    options = frozenset({"use_dynamic_cfg"})
    published = (
        Published("zai-org/CogVideoX-2b", _BOTH, "Apache-2.0", 1.7, 13.8),
        Published("zai-org/CogVideoX-5b", _BOTH, "CogVideoX", 5.6, 21.5),
        Published("zai-org/CogVideoX-5b-I2V", _IMAGE, "CogVideoX", 5.6, 21.5),
        Published("zai-org/CogVideoX1.5-5B", _TEXT, "CogVideoX", 5.6, 31.1),
        Published("zai-org/CogVideoX1.5-5B-I2V", _IMAGE, "CogVideoX", 5.6, 31.1),
    )

    def tasks(self, pipe: Any) -> tuple[Task, ...]:
        """A model either takes a first frame or it does not; diffusers starts version 1.5 from no video."""
        if takes_image(pipe):
            return _IMAGE
        return _BOTH if frames_together(pipe) == 1 else _TEXT

    def rules(self, pipe: Any) -> ShapeRules:
        """8k+1 frames, in version 1.5 16k+1; sizes that codec and patches divide, and that its positions reach."""
        config, pairs = config_of(pipe, "transformer"), frames_together(pipe)
        rules = self.codec_rules(pipe, (1, config["patch_size"], config["patch_size"]))
        rules = replace(rules, frames=Rule(rules.frames.step * pairs, rules.frames.offset))
        stride = pipe.vae_scale_factor_spatial
        height, width = config["sample_height"] * stride, config["sample_width"] * stride
        if config.get("use_learned_positional_embeddings"):  # one for each place, so there is one size
            return replace(rules, height=Rule(height, most=height), width=Rule(width, most=width))
        if pairs > 1:  # rotary positions are cut from a table of this size
            return replace(rules, height=replace(rules.height, most=height), width=replace(rules.width, most=width))
        return rules

    def standard_of(self, pipe: Any) -> Defaults:
        """Version 1.5 makes larger and smoother videos."""
        if frames_together(pipe) > 1:
            return replace(self.standard, num_frames=81, height=768, width=1360, fps=16.0)
        return self.standard

    def use_sampler(self, pipe: Any, name: str) -> None:
        """DDIM or DPM++ SDE, in the forms that follow the shifted schedule.

        Raises:
            UsageError: it is another.
        """
        from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler

        kinds = {"ddim": CogVideoXDDIMScheduler, "dpm++sde": CogVideoXDPMScheduler}
        if name not in kinds:
            raise UsageError(f"A {self.name} model has no sampler {name!r}. Choose one of {', '.join(kinds)}.")
        pipe.scheduler = kinds[name].from_config(pipe.scheduler.config, timestep_spacing="trailing")

    def embed(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        """T5's token embeddings; padding is read too, as in the model's own training."""
        found, _ = pipe.encode_prompt(
            caption, None, False, 1, max_sequence_length=text_length(pipe), device=pipe.device
        )
        return {"encoder_hidden_states": found[0]}  # [226, D]

    def encode_video(self, pipe: Any, video: Tensor) -> Latents:
        """The codec's normalised latents; in version 1.5 the first one twice where their number is odd.

        As in the published trainer (CogVideo, finetune/models/cogvideox_i2v/lora_trainer.py) and in sampling.
        """
        latents = super().encode_video(pipe, video)
        missing = -latents.mean.shape[2] % frames_together(pipe)
        mean, logvar = (
            None if values is None else torch.cat([values[:, :, :1]] * missing + [values], dim=2)
            for values in (latents.mean, latents.logvar)
        )
        assert mean is not None
        return Latents(mean, logvar)

    def conditions(
        self, pipe: Any, items: Mapping[str, Any], x_0: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """Latents of the first frames, padded in time by zeros, where the model takes any; some are left out.

        There is fresh noise on the frames, except where they were encoded ahead.

        Raises:
            DataError: first frames are neither there nor encoded ahead.
        """
        if not takes_image(pipe):
            return {}
        kept = torch.stack([torch.rand(1, 1, 1, 1, generator=g) >= _IMAGE_DROPOUT for g in generators])
        if "video" in items:
            frames = items["video"][:, :, :1].cpu()
            latents = self.encode_video(pipe, torch.stack([*map(noisy, frames, generators)]))
        elif "image_mean" in items:
            latents = Latents(items["image_mean"], items.get("image_logvar"))
        else:
            raise DataError(
                "This model makes videos from their first frames, which the prepared data does not hold. Prepare it "
                "with --save_image_latents, or leave out --load_tensors and train on the clips."
            )
        noise = torch.stack([torch.randn(latents.mean.shape[1:], generator=g) for g in generators])
        first = (latents.sample(noise.to(latents.mean.device)) * kept.to(latents.mean.device))[:, :, :1].to(x_0.device)
        codec = config_of(pipe, "vae")
        if codec.get("invert_scale_latents"):  # version 1.5 was trained so, and diffusers samples so
            first = first / codec["scaling_factor"] ** 2
        return {"image_latents": torch.cat([first, torch.zeros_like(x_0[:, :, 1:])], dim=2)}

    def predict(
        self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Tensor:
        """The transformer's v."""
        config, dtype = pipe.transformer.config, pipe.transformer.dtype
        parts = [x_t, condition["image_latents"]] if "image_latents" in condition else [x_t]
        sample = torch.cat(parts, dim=1).transpose(1, 2).to(dtype)  # [B, t, C, h, w]
        stride = pipe.vae_scale_factor_spatial
        positions = None
        if config.use_rotary_positional_embeddings:
            frames, height, width = x_t.shape[2:]
            positions = pipe._prepare_rotary_positional_embeddings(
                height * stride, width * stride, frames, device=x_t.device
            )
        output = modules["transformer"](
            hidden_states=sample,
            encoder_hidden_states=condition["encoder_hidden_states"].to(dtype),
            timestep=t,
            ofs=x_t.new_full((1,), 2.0) if config.ofs_embed_dim else None,
            image_rotary_emb=positions,
            return_dict=False,
        )[0]
        return output.transpose(1, 2)  # [B, C, t, h, w]

    def runner(self, pipe: Any, task: Task) -> Any:
        """The diffusers pipeline, with its codec's scale, also where it began without the codec."""
        runner = super().runner(pipe, task)
        runner.vae_scaling_factor_image = runner.vae.config.scaling_factor
        return runner

    def arguments(self, pipe: Any, task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
        """With as many text tokens as the model was trained with."""
        return {**super().arguments(pipe, task, settings), "max_sequence_length": text_length(pipe)}


def noisy(frame: Tensor, generator: torch.Generator) -> Tensor:
    """A first frame `[3, 1, H, W]` with noise of a random size."""
    size = (_NOISE_MEAN + _NOISE_STD * torch.randn((), generator=generator)).exp()
    return frame + size * torch.randn(frame.shape, generator=generator)


def config_of(pipe: Any, name: str) -> Mapping[str, Any]:
    """Of a component, in memory or on the disk."""
    if (part := getattr(pipe, name)) is not None:
        return part.config
    return json.loads((pipe.source / name / "config.json").read_text(encoding="utf-8"))


def takes_image(pipe: Any) -> bool:
    """Whether latents of a first frame are laid beside the noisy ones."""
    config = config_of(pipe, "transformer")
    return config["in_channels"] != config["out_channels"]


def frames_together(pipe: Any) -> int:
    """Latent frames that are one token: 1, in version 1.5 2."""
    return config_of(pipe, "transformer").get("patch_size_t") or 1


def text_length(pipe: Any) -> int:
    """Tokens that every caption is padded or cut to."""
    return config_of(pipe, "transformer")["max_text_seq_length"]
