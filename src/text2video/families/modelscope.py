"""ModelScope text-to-video (Wang et al. 2023, arXiv:2308.06571): a 3D U-Net over frame-wise image latents.

A Stable Diffusion U-Net with convolutions and attention along time, CLIP's text encoder, and epsilon prediction.
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from ..sizes import ShapeRules
from .base import Defaults, Published
from .pretrained import PretrainedFamily


class ModelScope(PretrainedFamily):
    """`ali-vilab/text-to-video-ms-1.7b` and models of its kind."""

    name = "modelscope"
    pipelines: ClassVar = {"text-to-video": "TextToVideoSDPipeline", "video-to-video": "VideoToVideoSDPipeline"}
    standard = Defaults(16, 256, 256, 8.0, 25, 9.0)
    denoiser_names = ("unet",)
    published = (
        Published("ali-vilab/text-to-video-ms-1.7b", ("text-to-video", "video-to-video"), "CC-BY-NC-4.0", 1.4, 3.8),
    )

    def rules(self, pipe: Any) -> ShapeRules:
        """Any number of frames; sizes that the codec and each level of the U-Net can halve."""
        levels = 2 ** (len(pipe.unet.config.block_out_channels) - 1)
        return self.codec_rules(pipe, (1, levels, levels))

    def embed(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        """CLIP's token embeddings."""
        hidden, _ = pipe.encode_prompt(caption, pipe.device, 1, False)
        return {"encoder_hidden_states": hidden[0]}  # [77, D]

    def predict(
        self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Tensor:
        """The U-Net's epsilon."""
        dtype = pipe.unet.dtype  # of a base in half precision, also where nothing casts by itself
        return modules["unet"](x_t.to(dtype), t, condition["encoder_hidden_states"].to(dtype), return_dict=False)[0]
