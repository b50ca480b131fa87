"""Wan 2.1 and 2.2 (Wan team 2025, arXiv:2503.20314): a diffusion transformer over a causal video codec's latents.

Flow matching, and umT5's reading of the caption. The first frame enters in two ways: its latents with a mask beside
the noise, for Wan 2.1 also CLIP's reading of it (image-to-video models); or in the place of the first latents, whose
tokens are at noise level 0 then (`expand_timesteps`, Wan 2.2 TI2V). Wan 2.2 A14B is two transformers that share the
noise levels: `transformer` from `boundary_ratio` up, `transformer_2` below.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from ..diffusion.objectives import expand
from ..errors import UsageError
from ..sizes import ShapeRules
from .base import Defaults, Published, Task
from .pretrained import PretrainedFamily

# Of the model card of Wan-AI/Wan2.1-T2V-14B-Diffusers: a translation of `sample_neg_prompt` of the published code.
NEGATIVE = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, overall "
    "gray, worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands, "
    "poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still picture, messy background, three "
    "legs, many people in the background, walking backwards"
)
TOKENS = 512  # of a caption
FIRST_GIVEN = 0.5  # how often a model of text and image is told the first frame in training


class Wan(PretrainedFamily):
    """`Wan-AI/Wan2.1-T2V-1.3B-Diffusers`, `Wan-AI/Wan2.2-TI2V-5B-Diffusers` and models of their kind."""

    name = "wan"
    pipelines: ClassVar = {
        "text-to-video": "WanPipeline",
        "image-to-video": "WanImageToVideoPipeline",
        "video-to-video": "WanVideoToVideoPipeline",
    }
    standard = Defaults(81, 480, 832, 16.0, 50, 5.0, NEGATIVE)
    options = frozenset({"guidance_scale_2"})
    denoiser_names = ("transformer", "transformer_2")
    comfyui_prefix = "diffusion_model."
    comfyui_names: ClassVar = {
        "attn1.": "self_attn.",
        "attn2.": "cross_attn.",
        ".to_q": ".q",
        ".to_k": ".k",
        ".to_v": ".v",
        ".to_out.0": ".o",
        ".add_k_proj": ".k_img",
        ".add_v_proj": ".v_img",
        "ffn.net.0.proj": "ffn.0",
        "ffn.net.2": "ffn.2",
    }
    timesteps = "logit_normal"  # as the report says of flow matching
    published = (
        Published("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", ("text-to-video", "video-to-video"), "Apache-2.0", 1.4, 28.9),
        Published("Wan-AI/Wan2.1-T2V-14B-Diffusers", ("text-to-video", "video-to-video"), "Apache-2.0", 14.3, 80.4),
        Published("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", ("image-to-video",), "Apache-2.0", 16.4, None),
        Published("Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", ("image-to-video",), "Apache-2.0", 16.4, None),
        Published("Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers", ("image-to-video",), "Apache-2.0", 16.4, None),
        Published("Wan-AI/Wan2.2-T2V-A14B-Diffusers", ("text-to-video",), "Apache-2.0", 28.6, 126.2),
        Published("Wan-AI/Wan2.2-I2V-A14B-Diffusers", ("image-to-video",), "Apache-2.0", 28.6, None),
        Published(
            "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
            ("text-to-video", "image-to-video", "video-to-video"),
            "Apache-2.0",
            5.0,
            34.2,
        ),
    )

    # --- what a model of it can do ------------------------------------------------------------------------------

    def tasks(self, pipe: Any) -> tuple[Task, ...]:
        """By the channels beside the noise: with them it needs a first frame."""
        if beside(pipe):
            return ("image-to-video",)
        if pipe.config.get("expand_timesteps"):
            return ("text-to-video", "image-to-video", "video-to-video")
        # diffusers starts from a video with one transformer only
        return ("text-to-video",) if boundary(pipe) else ("text-to-video", "video-to-video")

    def rules(self, pipe: Any) -> ShapeRules:
        """Frames as the codec takes them; sizes that are whole patches."""
        return self.codec_rules(pipe, tuple(pipe.transformer.config.patch_size))

    def standard_of(self, pipe: Any) -> Defaults:
        """As published: wan/configs of github.com/Wan-Video/Wan2.2, and the model cards of Wan 2.1."""
        if pipe.config.get("expand_timesteps"):
            return replace(self.standard, num_frames=121, height=704, width=1280, fps=24.0)
        if boundary(pipe) and beside(pipe):
            return replace(self.standard, num_inference_steps=40, guidance_scale=3.5)
        if boundary(pipe):
            return replace(self.standard, height=720, width=1280, num_inference_steps=40, guidance_scale=4.0)
        return self.standard

    def runner(self, pipe: Any, task: Task) -> Any:
        """The diffusers pipeline of a task, with its codec's strides: diffusers' video-to-video would guess them, and
        a pipeline that was opened without its codec does not know them."""
        made = super().runner(pipe, task)
        made.vae_scale_factor_temporal = made.vae.config.scale_factor_temporal
        made.vae_scale_factor_spatial = made.vae.config.scale_factor_spatial
        return made

    def arguments(self, pipe: Any, task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the pipeline is called with.

        Raises:
            UsageError: the model takes no last frame, or needs one; or it has no second guidance.
        """
        if "guidance_scale_2" in settings and not boundary(pipe):
            raise UsageError("This Wan model has one transformer: leave out --guidance_scale_2.")
        if task == "image-to-video":
            needs = told_of_both(pipe)
            takes = needs or (beside(pipe) and pipe.transformer.config.image_dim is None)
            if "last_image" in settings and not takes:
                raise UsageError(
                    "This Wan model takes no last frame: leave out --last_image, or choose Wan2.1-FLF2V or "
                    "Wan2.2-I2V-A14B."
                )
            if needs and "last_image" not in settings:
                raise UsageError("This Wan model goes from a first to a last frame: give --last_image too.")
        return super().arguments(pipe, task, settings)

    # --- training -----------------------------------------------------------------------------------------------

    def embed(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        """umT5's tokens, zeros after the last one."""
        hidden, _ = pipe.encode_prompt(caption, do_classifier_free_guidance=False, max_sequence_length=TOKENS)
        return {"encoder_hidden_states": hidden[0]}  # [512, D]

    @torch.no_grad()
    def encode_image(self, pipe: Any, video: Tensor) -> dict[str, Tensor]:
        """`known`: the latents of a video that is grey but for its known frames; `seen`: CLIP's reading of these."""
        if not beside(pipe):
            return super().encode_image(pipe, video)
        places = [0, -1] if told_of_both(pipe) else [0]
        known = torch.zeros_like(video)
        known[:, :, places] = video[:, :, places]
        found = {"known": self.encode_video(pipe, known).mean[0]}  # [C, t, h, w]
        if config_of(pipe).get("image_dim") is not None:
            pixels = video[0, :, places].add(1).mul(127.5).round().to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()
            found["seen"] = pipe.encode_image([Image.fromarray(frame) for frame in pixels], video.device)
        return found  # seen: [1 or 2, L, D]

    def conditions(
        self, pipe: Any, items: Mapping[str, Any], x_0: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """The first frame, and the last where the model takes both.

        Raises:
            UsageError: the data was encoded ahead without them.
        """
        if pipe.config.get("expand_timesteps"):
            given = torch.stack([torch.rand((), generator=generator) for generator in generators]) < FIRST_GIVEN
            return {"first": x_0[:, :, :1], "given": given.to(x_0.device)}
        if not beside(pipe):
            return {}
        if "video" in items:
            rows = [self.encode_image(pipe, one[None].to(x_0.device)) for one in items["video"]]
            told = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        elif "image_known" in items:
            told = {name: items[f"image_{name}"] for name in ("known", "seen") if f"image_{name}" in items}
        else:
            raise UsageError(
                "This Wan model is told the first frame, which this prepared data does not hold. Prepare it with "
                "--save_image_latents, or leave out --load_tensors."
            )
        latents = told["known"].to(x_0)
        # The mask has a channel for each frame of a latent; the first latent is of one frame, taken for all of them.
        channels = pipe.transformer.config.in_channels - 2 * latents.shape[1]
        mask = latents.new_zeros(len(latents), channels, *latents.shape[2:])
        mask[:, :, 0] = 1
        if told_of_both(pipe):
            mask[:, -1, -1] = 1
        return {"beside": torch.cat([mask, latents], 1), **({"image": told["seen"]} if "seen" in told else {})}

    def predict(
        self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Tensor:
        """The flow; each row is answered by the transformer of its noise level."""
        level = boundary(pipe)
        if level is None or "transformer_2" not in modules:
            return self._ask(pipe, modules, "transformer", x_t, t, condition)
        noisy = t >= level
        output = torch.zeros_like(x_t)
        for name, own in (("transformer", noisy), ("transformer_2", ~noisy)):
            rows = own.nonzero().flatten()
            # Processes that exchange gradients wait for those of every parameter: one row asks, and does not count.
            idle = not len(rows) and isinstance(modules[name], (DistributedDataParallel, FSDPModule))
            rows = rows.new_zeros(1) if idle else rows
            if len(rows):
                some = {key: value[rows] for key, value in condition.items()}
                answer = self._ask(pipe, modules, name, x_t[rows], t[rows], some).to(x_t.dtype)
                output = output.index_add(0, rows, 0 * answer if idle else answer)
        return output

    def _ask(
        self, pipe: Any, modules: dict[str, nn.Module], name: str, x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Tensor:
        """One transformer's answer, as diffusers' pipelines ask it."""
        dtype, patch = getattr(pipe, name).dtype, pipe.transformer.config.patch_size
        sample, timestep, known = x_t, t, None
        if "first" in condition:
            # As DiffSynth-Studio trains it: clean latents stand in the first place, and no loss is taken there.
            known = torch.zeros_like(x_t[:, :1], dtype=torch.bool)  # [B, 1, t, h, w]
            known[condition["given"], :, 0] = True
            sample = torch.where(known, condition["first"].to(x_t.dtype), x_t)
            tokens = known[:, 0, :, :: patch[1], :: patch[2]].flatten(1)  # [B, L]
            timestep = torch.where(tokens, 0, t[:, None].expand_as(tokens))
        if "beside" in condition:
            sample = torch.cat([x_t, condition["beside"].to(x_t.dtype)], 1)
        given: dict[str, Any] = {"encoder_hidden_states": condition["encoder_hidden_states"].to(dtype)}
        if "image" in condition:
            given["encoder_hidden_states_image"] = condition["image"].flatten(0, 1).to(dtype)
        output = modules[name](hidden_states=sample.to(dtype), timestep=timestep, **given, return_dict=False)[0]
        if known is None:
            return output
        _, sigma = self.schedule(pipe).alpha_sigma(t)
        return torch.where(known, (x_t - condition["first"]) / expand(sigma, x_t), output)


def boundary(pipe: Any) -> float | None:
    """The timestep from which on a model's first transformer works; None where there is one alone."""
    ratio = pipe.config.get("boundary_ratio")
    return None if ratio is None else ratio * pipe.scheduler.config.num_train_timesteps


def config_of(pipe: Any) -> Mapping[str, Any]:
    """The transformer's configuration, also where the transformer itself is not in memory."""
    if pipe.transformer is not None:
        return pipe.transformer.config
    return json.loads((pipe.source / "transformer" / "config.json").read_text(encoding="utf-8"))


def beside(pipe: Any) -> bool:
    """Whether a mask and the latents of known frames are laid beside the noise."""
    config = config_of(pipe)
    return config["in_channels"] != config["out_channels"]


def told_of_both(pipe: Any) -> bool:
    """Whether CLIP's reading of the first and of the last frame are taken together."""
    return config_of(pipe).get("pos_embed_seq_len") is not None
