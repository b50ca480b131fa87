"""HunyuanVideo 1.5 (Tencent 2025, arXiv:2511.18870): a diffusion transformer over latents of 4x16x16 pixels.

Flow matching. Captions are read by Qwen2.5-VL, and what stands in them between quotation marks also by byT5, letter by
letter. The latents of the first frame and a mask lie beside the noise, zeros where there is none; image-to-video models
see the frame through SigLIP too. Guidance is a component of its own, the guider.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from ..errors import UsageError
from ..sizes import ShapeRules
from .base import Defaults, Published, Task
from .pretrained import PretrainedFamily

_LICENCE = "Tencent Hunyuan Community"


class HunyuanVideo(PretrainedFamily):
    """`hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v` and models of its kind."""

    name = "hunyuanvideo-1.5"
    pipelines: ClassVar = {
        "text-to-video": "HunyuanVideo15Pipeline",
        "image-to-video": "HunyuanVideo15ImageToVideoPipeline",
    }
    standard = Defaults(121, 480, 848, 24.0, 50, 6.0)
    # diffusers' pipeline asks its codec for the number of channels: that one stays
    frozen = ("text_encoder", "text_encoder_2")
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    timesteps = "logit_normal"  # train.py of github.com/Tencent-Hunyuan/HunyuanVideo-1.5

    published = (
        Published("hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v", ("text-to-video",), _LICENCE, 8.3, None),
        Published("hunyuanvideo-community/HunyuanVideo-1.5-480p_i2v", ("image-to-video",), _LICENCE, 8.3, None),
    )

    # --- what a model of it can do ------------------------------------------------------------------------------

    def tasks(self, pipe: Any) -> tuple[Task, ...]:
        """A model with an image encoder needs a first frame."""
        return ("image-to-video",) if sees(pipe) else ("text-to-video",)

    def rules(self, pipe: Any) -> ShapeRules:
        """Frames as the codec takes them; sizes that are whole patches."""
        config = pipe.transformer.config
        return self.codec_rules(pipe, (config.patch_size_t, config.patch_size, config.patch_size))

    def standard_of(self, pipe: Any) -> Defaults:
        """Size and guidance are those of the model: 480p or 720p, distilled or not."""
        size = pipe.video_processor.calculate_default_height_width(9, 16, pipe.transformer.config.target_size)
        guidance = pipe.guider.config.guidance_scale
        return replace(self.standard, height=size[0], width=size[1], guidance_scale=guidance)

    def use_sampler(self, pipe: Any, name: str) -> None:
        """There is one: its pipelines give the scheduler noise levels, which others do not take.

        Raises:
            UsageError: another is named.
        """
        if name != "flow":
            raise UsageError(f"A {self.name} model has no sampler {name!r}. Choose flow.")

    def sample(
        self,
        pipe: Any,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        on_step: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """Videos, with the guider at the guidance that is asked for, and from an image in the size of that image: it
        has the size that is asked for, and diffusers would choose another."""
        usual = pipe.guider.guidance_scale
        pipe.guider.guidance_scale = settings["guidance_scale"]
        pipe.video_processor.calculate_default_height_width = lambda height, width, target_size: (height, width)
        try:
            return super().sample(pipe, prompts, generators, on_step, **settings)
        finally:
            pipe.guider.guidance_scale = usual
            del pipe.video_processor.calculate_default_height_width

    # --- training -----------------------------------------------------------------------------------------------

    def embed(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        """Qwen's tokens and byT5's, each with its mask."""
        names = ("encoder_hidden_states", "encoder_attention_mask")
        names += tuple(f"{name}_2" for name in names)
        found = pipe.encode_prompt(prompt=caption, device=pipe.device)
        return {name: value[0] for name, value in zip(names, found, strict=True)}

    @torch.no_grad()
    def encode_image(self, pipe: Any, video: Tensor) -> dict[str, Tensor]:
        """`seen`: SigLIP's reading of the first frame. Its latents are the first of the video's own."""
        if not sees(pipe):
            return super().encode_image(pipe, video)
        pixels = video[0, :, 0].add(1).mul(127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        return {"seen": pipe.encode_image(Image.fromarray(pixels), 1, video.device, video.dtype)[0]}  # [L, D]

    def conditions(
        self, pipe: Any, items: Mapping[str, Any], x_0: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """For a model that sees it, the first frame: its latents, and SigLIP's reading.

        Raises:
            UsageError: the data was encoded ahead without the second.
        """
        if not sees(pipe):
            return {}
        if "video" in items:
            seen = torch.stack([self.encode_image(pipe, one[None].to(x_0.device))["seen"] for one in items["video"]])
        elif "image_seen" in items:
            seen = items["image_seen"]
        else:
            raise UsageError(
                "This model's image encoder sees the first frame, which this prepared data does not hold. Prepare it "
                "with --save_image_latents, or leave out --load_tensors."
            )
        return {"first": x_0[:, :, :1], "image_embeds": seen}

    def predict(
        self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Tensor:
        """The flow, asked for as the published train.py asks.

        Raises:
            UsageError: the model jumps between two levels (step distillation), which this loss does not teach.
        """
        config, dtype = pipe.transformer.config, pipe.transformer.dtype
        if config.use_meanflow:
            raise UsageError("A step-distilled model cannot be trained further. Take the model that it was made from.")
        beside, mask = torch.zeros_like(x_t), torch.zeros_like(x_t[:, :1])
        if "first" in condition:
            beside[:, :, :1], mask[:, :, 0] = condition["first"].to(x_t.dtype), 1
        seen = condition.get("image_embeds")
        if seen is None:
            seen = x_t.new_zeros(len(x_t), pipe.vision_num_semantic_tokens, config.image_embed_dim)
        text = {name: value.to(dtype) for name, value in condition.items() if name.startswith("encoder_")}
        return modules["transformer"](
            hidden_states=torch.cat([x_t, beside, mask], 1).to(dtype),
            image_embeds=seen.to(dtype),
            timestep=t.to(dtype),
            **text,
            return_dict=False,
        )[0]


def sees(pipe: Any) -> bool:
    """Whether the model has an encoder for the first frame."""
    return "image_encoder" in pipe.components
