"""Stable Video Diffusion that follows a text: token embeddings in its cross-attention, in place of the first frame's.

The folder of such a model has `text_encoder`, `tokenizer` and `text_projection` in place of `image_encoder` and
`feature_extractor`; all else is as published.
"""

from typing import Any

import torch
from diffusers import ModelMixin, StableVideoDiffusionPipeline
from diffusers.configuration_utils import ConfigMixin, register_to_config
from PIL import Image
from torch import Tensor, nn


class TextProjection(ModelMixin, ConfigMixin):
    """Token embeddings, in the width that the denoiser's cross-attention takes.

    Args:
        in_features: width of the text encoder.
        out_features: `cross_attention_dim` of the denoiser.
    """

    @register_to_config
    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[B, L, in_features]` -> `[B, L, out_features]`."""
        return self.linear(hidden_states)


class TextStableVideoDiffusionPipeline(StableVideoDiffusionPipeline):
    """Text, and a first frame or none -> video, by the published pipeline's own sampling.

    Without a picture the latents beside the noise are zeros, as they were for some clips in training.

    Args:
        vae, unet, scheduler: as in Stable Video Diffusion.
        text_encoder, tokenizer: such as CLIP's; frozen.
        text_projection: was trained with the denoiser.
        image_encoder, feature_extractor: None; named here because the published pipeline has them.
    """

    model_cpu_offload_seq = "text_encoder->text_projection->unet->vae"
    _optional_components = ["image_encoder", "feature_extractor"]  # noqa: RUF012 - the name and type diffusers reads

    def __init__(
        self,
        vae: Any,
        unet: Any,
        scheduler: Any,
        text_encoder: Any,
        tokenizer: Any,
        text_projection: TextProjection,
        image_encoder: Any = None,
        feature_extractor: Any = None,
    ):
        super().__init__(vae, image_encoder, unet, scheduler, feature_extractor)
        self.register_modules(text_encoder=text_encoder, tokenizer=tokenizer, text_projection=text_projection)
        self._texts, self._begins = ("", ""), True

    def read(self, caption: str) -> Tensor:
        """Token embeddings `[1, L, D]`, padded to the text encoder's longest text."""
        length, device = min(self.tokenizer.model_max_length, 512), self._execution_device
        tokens = self.tokenizer(
            [caption], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self.text_encoder(input_ids=tokens.input_ids.to(device)).last_hidden_state

    @torch.no_grad()
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] - the text comes first
        self,
        prompt: str,
        image: Image.Image | None = None,
        negative_prompt: str = "",
        height: int = 576,
        width: int = 1024,
        num_frames: int | None = None,
        num_inference_steps: int = 25,
        min_guidance_scale: float = 1.0,
        max_guidance_scale: float = 3.0,
        fps: float = 7,
        motion_bucket_id: int = 127,
        noise_aug_strength: float = 0.02,
        decode_chunk_size: int | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> Any:
        """One video; see `StableVideoDiffusionPipeline`.

        Args:
            image: the first frame; None: the text alone says what it is.
            min_guidance_scale, max_guidance_scale: at the first and the last frame.
        """
        self._texts, self._begins = (negative_prompt, prompt), image is not None
        try:
            return super().__call__(
                image or Image.new("RGB", (width, height)),
                height=height,
                width=width,
                num_frames=num_frames,
                num_inference_steps=num_inference_steps,
                min_guidance_scale=min_guidance_scale,
                max_guidance_scale=max_guidance_scale,
                fps=fps,  # pyright: ignore[reportArgumentType] - it is a number among others for the denoiser
                motion_bucket_id=motion_bucket_id,
                noise_aug_strength=noise_aug_strength,
                decode_chunk_size=decode_chunk_size,
                generator=generator,
                output_type=output_type,
            )
        finally:
            self._begins = True  # training encodes first frames with this pipeline too

    def _encode_image(
        self, image: Any, device: Any, num_videos_per_prompt: int, do_classifier_free_guidance: bool
    ) -> Tensor:
        """What goes to the cross-attention: with guidance the negative prompt's embeddings before the prompt's."""
        texts = self._texts if do_classifier_free_guidance else self._texts[1:]
        return self.text_projection(torch.cat([self.read(text) for text in texts]).to(self.text_projection.dtype))

    def _encode_vae_image(self, image: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        latents = super()._encode_vae_image(image, *args, **kwargs)
        return latents if self._begins else torch.zeros_like(latents)
