"""Our own models as a family: a denoiser of pixels or latents and a text encoder, from scratch or from a folder."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer

from ..diffusion.guidance import default_steps
from ..diffusion.schedules import AutoFlow, Schedule
from ..errors import UsageError
from ..models.codecs import Geometry, Latents, encode, open_codec
from ..models.conditions import Condition, conditions_of, kept, keywords
from ..models.latent_unet import LatentUNet3D
from ..models.text import BuiltinTextModel, TextEncoder, padded, text_width
from ..models.transformer import SIZES, VideoTransformer
from ..models.unet3d import UNet3D
from ..pipelines import DENOISERS, TextToVideoPipeline, leave_on_disk
from ..sections import FIELDS
from ..sizes import Bucket, ShapeRules
from .base import AS_USUAL, Defaults, Opening
from .devices import placed
from .frozen import on_disk
from .imports import construct, import_class
from .own import OwnFamily, opened

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..sections import DiffusionConfig, ModelConfig, TextConfig

# `model.kind` -> the architecture, and what it is called in a pipeline.
ARCHITECTURES: dict[str, tuple[type, str]] = {
    "unet3d": (UNet3D, "unet"),
    "latent_unet": (LatentUNet3D, "unet"),
    "transformer": (VideoTransformer, "transformer"),
}


class NativeFamily(OwnFamily):
    """A U-Net or a transformer over pixels or a codec's latents, with the built-in or a pretrained text encoder.

    `embeddings` stands in for a frozen text encoder that is not in memory.
    """

    name = "native"
    denoiser_names = DENOISERS
    lora_targets = ("q", "kv", "qkv", "out")

    def __init__(self) -> None:
        self._frozen: TextEncoder | None = None

    def create(
        self,
        config: "RunConfig",
        captions: Iterable[str],
        shape: Bucket,
        tokenizer: Any = None,
        parts: Path | None = None,
        device: str = "cpu",
    ) -> Any:
        """An untrained pipeline for a run, which makes videos of `shape` when it is not told otherwise.

        The denoiser is made on `device`: on "meta" it has sizes and no weights. The built-in encoder's tokenizer is
        `tokenizer`, or made from the run's captions. Frozen parts that lie in the folder `parts` are left there, out of
        memory.
        """
        left = {name: parts / name for name in ("vae", "text_encoder") if parts and (parts / name).is_dir()}
        codec, diffusion = config.model.codec, config.diffusion
        tokenizer, text_encoder, width = text_parts(config.text, captions, tokenizer, left.get("text_encoder"))
        schedule = schedule_of(diffusion, config.preview.sampling_shift)
        with torch.device(device):
            denoiser = self.denoiser(config, width)
        pipe = TextToVideoPipeline(
            **{ARCHITECTURES[config.model.kind][1]: denoiser},
            scheduler=schedule.sampler(config.preview.scheduler, diffusion.prediction, clip=not codec),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            vae=open_codec(codec) if codec and "vae" not in left else None,
            prediction=diffusion.prediction,
            num_frames=shape.frames,
            height=shape.height,
            width=shape.width,
            fps=float(config.data.fps or 8),
            guidance_scale=config.preview.guidance_scale,
            guidance_interval=config.preview.guidance_interval,
            num_inference_steps=config.preview.num_inference_steps,
            training_shift=diffusion.shift if config.preview.sampling_shift else None,
        )
        leave_on_disk(pipe, left)
        return pipe

    @staticmethod
    def denoiser(config: "RunConfig", text_width: int) -> Any:
        """An untrained denoiser, of pixels or the codec's latents, for captions that are `text_width` wide."""
        model = config.model
        channels = Geometry.read(model.codec).channels if model.codec else 3
        of_pixels = channels == 3 and model.kind == "unet3d"  # its default, which a subclass may have changed
        sizes: dict[str, Any] = {} if of_pixels else {"in_channels": channels, "out_channels": channels}
        kind = import_class(model.model_class) if model.model_class else ARCHITECTURES[model.kind][0]
        if model.conditions:
            sizes["conditions"] = described(model)
        denoiser = construct(kind, cross_attention_dim=text_width, **sizes | arguments(model))
        for name in ("in_channels", "out_channels"):
            if (own := denoiser.config[name]) != channels:
                what = "the codec's latents" if model.codec else "videos"
                raise UsageError(f"{name} of this model is {own}, and {what} have {channels} channels: leave it out.")
        return denoiser

    def open(
        self,
        path: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        trainable_only: bool = False,
        opening: Opening = AS_USUAL,
    ) -> TextToVideoPipeline:
        """The pipeline in a folder; with `trainable_only` its frozen parts are left there, out of memory."""
        left = on_disk(path) if trainable_only else {}
        pipe = opened(TextToVideoPipeline, path, dtype, opening, **dict.fromkeys(left))
        leave_on_disk(pipe, left)
        return placed(pipe, device, opening.offload)

    def defaults(self, pipe: Any) -> Defaults:
        """As it was trained."""
        own = pipe.config
        return Defaults(
            own["num_frames"],
            own["height"],
            own["width"],
            own["fps"],
            own["num_inference_steps"] or default_steps(pipe.scheduler),
            own["guidance_scale"],
            guidance_interval=own["guidance_interval"] or (0.0, 1.0),
        )

    def rules(self, pipe: Any) -> ShapeRules:
        """The videos that it can take."""
        return pipe.rules

    def schedule(self, pipe: Any) -> Schedule:
        """The noise schedule it was trained with."""
        schedule, shift = Schedule.from_scheduler(pipe.scheduler), pipe.config.get("training_shift")
        return schedule if shift is None else _shifted(schedule.name, schedule.num_timesteps, shift)

    def prediction(self, pipe: Any) -> str:
        """What the denoiser predicts."""
        return pipe.config["prediction"]

    def denoisers(self, pipe: Any) -> dict[str, nn.Module]:
        """The U-Net, or the transformer."""
        return {pipe.denoiser_name: pipe.denoiser}

    def trainable(self, pipe: Any) -> dict[str, nn.Module]:
        """The denoiser, and the text encoder where it is the built-in one."""
        parts = self.denoisers(pipe)
        if pipe.reader().trainable:
            parts["text_encoder"] = pipe.text_encoder
        return parts

    def encode_text(self, pipe: Any, modules: dict[str, nn.Module], captions: Sequence[str]) -> dict[str, Tensor]:
        """Captions -> token embeddings and their mask. A pretrained encoder reads each caption once."""
        if "text_encoder" in modules:
            return TextEncoder(pipe.tokenizer, modules["text_encoder"], trainable=True)(captions).condition()
        if self.embeddings is not None:
            return padded([self.embeddings(caption)["hidden"] for caption in captions], pipe.device).condition()
        if self._frozen is None or self._frozen.model is not pipe.text_encoder:
            reader: TextEncoder = pipe.reader()
            self._frozen = reader
        return self._frozen(captions).condition()

    def embed(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        """A frozen text encoder's token embeddings `hidden` `[L, D]`."""
        return {"hidden": pipe.reader().read(caption)}

    def encode_video(self, pipe: Any, video: Tensor) -> Latents:
        """The codec's latents; without a codec pixels are denoised as they are."""
        return Latents(video) if pipe.vae is None else encode(pipe.vae, video)

    def encode_image(self, pipe: Any, video: Tensor) -> dict[str, Tensor]:
        """The first frame's latents."""
        return self.encode_video(pipe, video[:, :, :1]).named()

    def conditions(
        self, pipe: Any, items: Mapping[str, Any], x_0: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """What the data gives besides captions: of the model's own conditions some are dropped, all else is as it is.

        Each clip draws a number for each condition that the model has, whether its data has it or not.
        """
        given = {name: value.to(x_0.device) for name, value in items.get("conditions", {}).items()}
        for name, condition in conditions_of(pipe.denoiser).items():
            drawn = torch.tensor([float(torch.rand((), generator=source)) for source in generators])
            if name in given:
                with torch.no_grad():
                    told = condition.encode(given[name], lambda video: self.encode_video(pipe, video).mean)
                given[name] = kept(told, drawn >= condition.dropout)
        return given

    def own_conditions(self, pipe: Any) -> dict[str, Condition]:
        """Of the denoiser."""
        return conditions_of(pipe.denoiser)

    def predict(
        self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Tensor:
        """The denoiser's prediction; it is told the timesteps of frames for each of its tokens."""
        t = t if t.ndim == 1 else t[:, :: pipe.denoiser.strides[0]]
        told = keywords(pipe.denoiser, condition)
        return modules[pipe.denoiser_name](x_t, t, **told, return_dict=False)[0]

    def sample(
        self,
        pipe: Any,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        on_step: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """See `TextToVideoPipeline.sample`."""
        if not settings.get("conditions"):
            settings.pop("fps", None)  # it is the file's alone
        report = (lambda step, steps, _: on_step(step, steps)) if on_step else None
        return pipe.sample(prompts, generators, on_step=report, **settings)

    def stream(
        self, pipe: Any, prompt: str, generator: torch.Generator, window: int | None = None, **settings: Any
    ) -> Iterator[Tensor]:
        """See `TextToVideoPipeline.stream`."""
        settings.pop("fps", None)
        return pipe.stream(prompt, generator=generator, window=window, **settings)

    def adapt(self, pipe: Any, shape: Bucket, fps: float | None) -> None:
        """Shape and frame rate are written into the pipeline's configuration."""
        pipe.register_to_config(num_frames=shape.frames, height=shape.height, width=shape.width)
        if fps:
            pipe.register_to_config(fps=float(fps))

    def use_sampler(self, pipe: Any, name: str) -> None:
        """See `TextToVideoPipeline.use_sampler`."""
        pipe.use_sampler(name)


def arguments(model: "ModelConfig") -> dict[str, Any]:
    """What a configuration says to the architecture."""
    names = [name for name in FIELDS[model.kind] if name != "size"]
    said = {name: value for name in names if (value := getattr(model, name)) != []}
    return (SIZES[model.size] if "size" in FIELDS[model.kind] else {}) | said | model.model_args


def described(model: "ModelConfig") -> dict[str, dict[str, Any]]:
    """The conditions of a configuration as `Conditions` takes them; a user's own class is imported."""
    found = {}
    for name, own in model.conditions.items():
        kind = own.kind or name
        if ":" in kind:
            import_class(kind)
        found[name] = {"kind": kind, "dropout": own.dropout, "guidance_scale": own.guidance_scale, **own.args}
    return found


def schedule_of(diffusion: "DiffusionConfig", sampling_shift: float | None = None) -> Schedule:
    """The noise schedule of a new model; with another shift where one is given."""
    return _shifted(diffusion.schedule, diffusion.num_timesteps, sampling_shift or diffusion.shift)


def _shifted(name: str, num_timesteps: int, shift: float | str) -> Schedule:
    if shift == "auto":
        return AutoFlow(num_timesteps)
    return Schedule(name, num_timesteps, float(shift))


def text_parts(
    config: "TextConfig", captions: Iterable[str], tokenizer: Any, folder: Path | None
) -> tuple[Any, nn.Module | None, int]:
    """Tokenizer, model and width of a new run's text encoder; no model where it is left on the disk, in `folder`."""
    if folder is not None:
        found = AutoTokenizer.from_pretrained(folder.with_name("tokenizer"))
        return found, None, text_width(AutoConfig.from_pretrained(folder))
    if config.text_encoder != "builtin":
        with torch.random.fork_rng(devices=[]):  # the denoiser begins the same whether this is loaded or not
            encoder = TextEncoder.open(config.text_encoder)
        if isinstance(encoder.model, BuiltinTextModel):
            encoder.model.frozen = config.frozen
    elif tokenizer is not None:
        model = BuiltinTextModel(len(tokenizer), config.text_width, config.text_layers, config.max_tokens)
        encoder = TextEncoder(tokenizer, model)
    else:
        encoder = TextEncoder.builtin(
            captions, config.text_width, config.text_layers, config.vocab_size, config.max_tokens
        )
    return encoder.tokenizer, encoder.model, encoder.width
