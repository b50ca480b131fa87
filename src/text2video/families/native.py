"""Our own models as a family: a pixel-space 3D U-Net and a text encoder, built from a configuration or a folder."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..diffusion.schedules import Schedule
from ..models.text import BuiltinTextModel, TextEncoder
from ..models.unet3d import UNet3D
from ..pipelines import TextToVideoPipeline
from ..sizes import Bucket, ShapeRules

if TYPE_CHECKING:
    from ..config import RunConfig


class NativeFamily:
    """`UNet3D` over pixels, with the built-in or a pretrained text encoder."""

    name = "native"
    tasks = ("text-to-video",)

    def __init__(self) -> None:
        self._frozen: TextEncoder | None = None

    def create(
        self,
        config: "RunConfig",
        captions: Iterable[str],
        shape: Bucket,
        model_class: type[UNet3D] = UNet3D,
        tokenizer: Any = None,
    ) -> Any:
        """An untrained pipeline for a run, which makes videos of `shape` when it is not told otherwise.

        The built-in encoder's tokenizer is `tokenizer`, or made from the run's captions.
        """
        text = config.text
        if text.text_encoder == "builtin" and tokenizer is not None:
            encoder = TextEncoder(
                tokenizer, BuiltinTextModel(len(tokenizer), text.text_width, text.text_layers, text.max_tokens)
            )
        elif text.text_encoder == "builtin":
            encoder = TextEncoder.builtin(captions, text.text_width, text.text_layers, text.vocab_size, text.max_tokens)
        else:
            encoder = TextEncoder.open(text.text_encoder)
        diffusion = config.diffusion
        return TextToVideoPipeline(
            unet=self.denoiser(config, encoder.width, model_class),
            scheduler=Schedule(diffusion.schedule, diffusion.num_timesteps, diffusion.shift).sampler(
                config.preview.scheduler, diffusion.prediction
            ),
            text_encoder=encoder.model,
            tokenizer=encoder.tokenizer,
            prediction=diffusion.prediction,
            num_frames=shape.frames,
            height=shape.height,
            width=shape.width,
            fps=float(config.data.fps or 8),
            guidance_scale=config.preview.guidance_scale,
            guidance_interval=config.preview.guidance_interval,
            num_inference_steps=config.preview.num_inference_steps,
        )

    @staticmethod
    def denoiser(config: "RunConfig", text_width: int, model_class: type[UNet3D] = UNet3D) -> UNet3D:
        """An untrained denoiser of captions that are `text_width` wide."""
        model = config.model
        return model_class(
            cross_attention_dim=text_width,
            model_channels=model.model_channels,
            channel_mult=model.channel_mult,
            num_res_blocks=model.num_res_blocks,
            attention=model.attention,
            downsample_time=model.downsample_time,
            patch_size=model.patch_size,
            conv=model.conv,
            head_dim=model.head_dim,
            **model.model_args,
        )

    def open(self, path: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> TextToVideoPipeline:
        """The pipeline in a folder."""
        return TextToVideoPipeline.from_pretrained(path, dtype=dtype).to(device)

    def rules(self, pipe: Any) -> ShapeRules:
        """The videos that it can take."""
        return pipe.unet.rules

    def schedule(self, pipe: Any) -> Schedule:
        """The noise schedule it was trained with."""
        return Schedule.from_scheduler(pipe.scheduler)

    def trainable(self, pipe: Any) -> dict[str, nn.Module]:
        """The U-Net, and the text encoder where it is the built-in one."""
        parts: dict[str, nn.Module] = {"unet": pipe.unet}
        if TextEncoder(pipe.tokenizer, pipe.text_encoder).trainable:
            parts["text_encoder"] = pipe.text_encoder
        return parts

    def encode_text(self, pipe: Any, modules: dict[str, nn.Module], captions: Sequence[str]) -> dict[str, Tensor]:
        """Captions -> token embeddings and their mask. A frozen encoder reads each caption once."""
        if "text_encoder" in modules:
            return TextEncoder(pipe.tokenizer, modules["text_encoder"], trainable=True)(captions).condition()
        if self._frozen is None or self._frozen.model is not pipe.text_encoder:
            self._frozen = TextEncoder(pipe.tokenizer, pipe.text_encoder)
        return self._frozen(captions).condition()

    def encode_video(self, pipe: Any, video: Tensor) -> Tensor:
        """Pixels are denoised as they are."""
        return video

    def predict(self, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        """The U-Net's prediction."""
        return modules["unet"](x_t, t, **condition, return_dict=False)[0]

    def sample(
        self,
        pipe: Any,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        on_step: Callable[[int, int, Tensor], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """See `TextToVideoPipeline.sample`."""
        return pipe.sample(prompts, generators, on_step=on_step, **settings)
