"""Open-Sora 1.2 as a diffusers pipeline: rectified flow over the latents of its own autoencoder.

After the published code (Apache-2.0, github.com/hpcaitech/Open-Sora, tag v1.2.0): scripts/inference.py,
opensora/schedulers/rf and opensora/utils/inference_utils.py.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from ..diffusion.guidance import guided, sample
from ..diffusion.objectives import expand
from ..errors import ModelError
from ..models.opensora import OpenSoraTransformer
from ..models.opensora_vae import OpenSoraVAE
from ..pipelines import TextToVideoOutput
from ..sizes import Rule, ShapeRules

# Part -> the repository that it was published in, the folder there, and the file that says what it is.
PARTS = {
    "transformer": ("hpcai-tech/OpenSora-STDiT-v3", "", "config.json"),
    "vae": ("hpcai-tech/OpenSora-VAE-v1.2", "", "config.json"),
    "text_encoder": ("PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers", "text_encoder/", "config.json"),
    "tokenizer": ("PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers", "tokenizer/", "tokenizer_config.json"),
}
QUALITY = "aesthetic score:"  # how the captions of its training say how good a clip looks, on a scale to 10
STILL_FPS = 120.0  # the frame rate that a single picture had in training


class OpenSoraPipeline(DiffusionPipeline):
    """Text, and a first frame where one is given -> videos.

    Args:
        transformer, vae: `OpenSoraTransformer` and `OpenSoraVAE`.
        text_encoder, tokenizer: T5 v1.1 XXL.
        scheduler: a diffusers scheduler along a straight path; its shift is set for each video.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"

    def __init__(self, transformer: Any, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any):
        super().__init__()
        parts = {"transformer": transformer, "vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer}
        self.register_modules(**parts, scheduler=scheduler)
        # A copy, for when captions are read while the transformer is out of memory: it never learns.
        self.no_caption: Tensor = transformer.y_embedder.y_embedding.detach().clone()  # [L, D]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "OpenSoraPipeline":
        """The pipeline whose parts `part_folders` finds. Its scheduler is Euler's: nothing of it has to be stored.

        Raises:
            ModelError: parts are missing.
        """
        from transformers import AutoTokenizer, T5EncoderModel

        parts = part_folders(Path(pretrained_model_name_or_path))
        dtype, variant = kwargs.get("dtype") or torch.float32, kwargs.get("variant")
        pipe = cls(
            OpenSoraTransformer.from_pretrained(parts["transformer"], torch_dtype=dtype, use_safetensors=True),
            OpenSoraVAE.from_pretrained(parts["vae"], torch_dtype=dtype, use_safetensors=True),
            T5EncoderModel.from_pretrained(parts["text_encoder"], dtype=dtype, variant=variant, use_safetensors=True),
            AutoTokenizer.from_pretrained(parts["tokenizer"]),
            FlowMatchEulerDiscreteScheduler(),
        )
        pipe.parts = parts
        return pipe

    @property
    def rules(self) -> ShapeRules:
        """The videos that it makes: whole chunks of the autoencoder, and sides that it can halve."""
        _, height, width = self.vae.strides
        return ShapeRules(Rule(self.vae.config["micro_frame_size"]), Rule(height), Rule(width))

    def encode_prompt(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Prompts -> token embeddings `[B, L, D]` and their mask `[B, L]`, in small letters as in training."""
        tokens = self.tokenizer(
            [" ".join(prompt.lower().split()) for prompt in prompts],
            max_length=len(self.no_caption),
            padding=True,
            truncation=True,
            return_tensors="pt",
        ).to(self._execution_device)
        hidden = self.text_encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return {"encoder_hidden_states": hidden, "encoder_attention_mask": tokens.attention_mask.bool()}

    def no_prompt(self, text: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What stands for no prompt beside these: the learned embedding, of as many tokens as each prompt has."""
        hidden = text["encoder_hidden_states"]
        learned = self.no_caption[: hidden.shape[1]].to(hidden)  # [L, D]
        return {**text, "encoder_hidden_states": learned.expand_as(hidden)}

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        image: Any = None,
        negative_prompt: str = "",
        num_frames: int = 51,
        height: int = 240,
        width: int = 424,
        fps: float = 24.0,
        num_inference_steps: int = 30,
        guidance_scale: float = 7.0,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> TextToVideoOutput | tuple[Any]:
        """Videos from text, in the manner of diffusers' video pipelines.

        Args:
            prompt: "aesthetic score: 6.5." is put behind it, unless it says a score itself.
            image: the first frame, a picture of PIL; None: text alone.
            negative_prompt: empty: the learned embedding of no caption.
            num_frames: 17, 34, 51 ..., or 1.
            fps: frames a second that the motion is made for.
            output_type: "latent": normalised latents `[B, C, t, h, w]`; "pt": `[B, T, C, H, W]` in [0, 1]; "np":
                `[B, T, H, W, C]` in [0, 1]; "pil": lists of pictures.

        Raises:
            UsageError: the model cannot make videos of this shape.
        """
        self.rules.check((self.vae.config["micro_frame_size"] if num_frames == 1 else num_frames, height, width))
        prompts = [prompt] if isinstance(prompt, str) else prompt
        device, stride = self._execution_device, self.vae.strides
        frames = self.vae.latent_frames(num_frames)
        shape = (len(prompts), self.transformer.config.in_channels, frames, height // stride[1], width // stride[2])
        noise = torch.randn(shape, generator=generator, device=generator.device if generator else device).to(device)

        scored = [text if QUALITY in text else f"{text} {QUALITY} 6.5." for text in prompts]
        if negative_prompt:  # encoded together, so that both have the same number of tokens
            both = self.encode_prompt(scored + [negative_prompt] * len(prompts))
            text = {name: value[: len(prompts)] for name, value in both.items()}
            against = {name: value[len(prompts) :] for name, value in both.items()}
        else:
            text = self.encode_prompt(scored)
            against = self.no_prompt(text)
        speed = noise.new_full((len(prompts),), fps if num_frames > 1 else STILL_FPS)
        shared = {"fps": speed, **(self._first_frame(image, noise, height, width) if image is not None else {})}
        set_shift(self.scheduler, shift(frames, height, width))
        progress: Any = self.progress_bar
        with progress(total=num_inference_steps) as bar:
            latents = sample(
                guided(self._predict, guidance_scale, {**against, **shared}),
                self.scheduler,
                noise,
                {**text, **shared},
                "flow",
                num_inference_steps,
                generator,
                lambda *_: bar.update(),
            )
        found: Any = latents if output_type == "latent" else self._decoded(latents, output_type)
        return TextToVideoOutput(frames=found) if return_dict else (found,)

    def _first_frame(self, image: Any, noise: Tensor, height: int, width: int) -> dict[str, Tensor]:
        """A picture as condition: see `velocity`."""
        pixels = VaeImageProcessor().preprocess(image, height, width, resize_mode="crop")  # [1, 3, H, W]
        pixels = pixels.to(noise.device, self.vae.dtype)[:, :, None]  # [1, 3, 1, H, W]
        given = torch.zeros_like(noise)
        given[:, :, :1] = self.vae.encode(pixels).latent_dist.mean
        return first_given(given)

    def _predict(self, x_t: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        return velocity(self.transformer, x_t, t, condition, self.vae.strides)

    def _decoded(self, latents: Tensor, output_type: str) -> Any:
        videos = [self.vae.decode(one[None].to(self.vae.dtype)).sample for one in latents]  # each [1, 3, T, H, W]
        frames: Any = torch.cat(videos).float().clamp(-1, 1).add(1).div(2).transpose(1, 2)  # [B, T, 3, H, W]
        if output_type != "pt":
            frames = frames.permute(0, 1, 3, 4, 2).cpu().numpy()  # [B, T, H, W, 3]
        return [self.numpy_to_pil(video) for video in frames] if output_type == "pil" else frames


def part_folders(path: Path) -> dict[str, Path]:
    """Part -> its folder: one of that name in `path` or beside it, `path` itself where that is the transformer's, or
    where the part's repository was downloaded to.

    Raises:
        ModelError: parts are in none of these places; it says how to fetch them.
    """
    from huggingface_hub import try_to_load_from_cache

    home = path.parent if path.name in PARTS else path
    found = {part: home / part for part in PARTS if (home / part).is_dir()}
    if "transformer" not in found and (path / "model.safetensors").is_file():
        found["transformer"] = path
    for part, (repository, folder, file) in PARTS.items():
        if part not in found and isinstance(cached := try_to_load_from_cache(repository, folder + file), str):
            found[part] = Path(cached).parent
    if missing := [part for part in PARTS if part not in found]:
        raise ModelError(
            f"Open-Sora is published in parts, and these of {str(path)!r} cannot be found: {', '.join(missing)}. Put "
            f"them into folders of these names in {str(home)!r}, or fetch them by: {_fetch(missing)}"
        )
    return found


def _fetch(parts: Sequence[str]) -> str:
    """The commands that download these parts."""
    wanted: dict[str, list[str]] = {}
    for part in parts:
        repository, folder, _ = PARTS[part]
        wanted.setdefault(repository, []).extend([f'"{folder}*"'] if folder else [])
    commands = [
        f"hf download {repository}" + (f" --include {' '.join(files)}" if files else "")
        for repository, files in wanted.items()
    ]
    return "; ".join(commands)


def velocity(transformer: Any, x_t: Tensor, t: Tensor, condition: Mapping[str, Any], strides: Sequence[int]) -> Tensor:
    """noise - x_0 `[B, C, t, h, w]` of noisy latents at timesteps `[B]`; the published model predicts x_0 - noise.

    `condition` may hold latents that are `given`, `[B, C, t, h, w]`, and `frame_mask` `[B, t]`, false for those. The
    transformer sees them clean, at timestep 0, and their velocity is the one that leads to them: sampling ends there,
    and in training they count nothing.
    """
    mask = condition.get("frame_mask")
    seen = x_t if mask is None else torch.where(mask[:, None, :, None, None], x_t, condition["given"])
    output = transformer(
        hidden_states=seen,
        timestep=t,
        encoder_hidden_states=condition["encoder_hidden_states"],
        encoder_attention_mask=condition["encoder_attention_mask"],
        fps=condition["fps"],
        height=x_t.shape[3] * strides[1],
        width=x_t.shape[4] * strides[2],
        frame_mask=mask,
        return_dict=False,
    )[0]
    found = -output[:, : x_t.shape[1]].float()  # the second half, a variance, is not used
    if mask is None:
        return found
    known = (x_t - condition["given"]).float() / expand(t.float() / 1000, x_t)
    return torch.where(mask[:, None, :, None, None], found, known)


def first_given(latents: Tensor) -> dict[str, Tensor]:
    """The condition that the first frame of latents `[B, C, t, h, w]` is given."""
    mask = torch.ones(len(latents), latents.shape[2], dtype=torch.bool, device=latents.device)
    mask[:, 0] = False
    return {"given": latents, "frame_mask": mask}


def shift(latent_frames: int, height: int, width: int) -> float:
    """How far timesteps move towards noise: a larger video needs more of it to be hidden."""
    return math.sqrt(height * width / 512**2 * latent_frames)


def set_shift(scheduler: Any, value: float) -> None:
    """Sets the shift of a scheduler along a straight path."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        scheduler.set_shift(value)
    else:
        scheduler.register_to_config(flow_shift=value)
