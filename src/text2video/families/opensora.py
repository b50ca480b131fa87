"""Open-Sora 1.2 (Zheng et al. 2024, arXiv:2412.20404): text to video and image to video, by rectified flow.

Of the published versions this one is read: transformer and autoencoder are small enough to be held against their code
line by line, and all its parts are open (Apache-2.0). It was published in parts, each in a repository of its own.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..diffusion.schedules import Schedule
from ..errors import UsageError
from ..models.codecs import Latents
from ..pipelines import link
from ..sizes import ShapeRules
from .base import Defaults, Published, Task
from .opensora_pipeline import OpenSoraPipeline, first_given, shift, velocity
from .pretrained import PretrainedFamily

CLASSES = {
    "transformer": ["text2video.models.opensora", "OpenSoraTransformer"],
    "vae": ["text2video.models.opensora_vae", "OpenSoraVAE"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "AutoTokenizer"],
}
FIRST_GIVEN = 0.25  # of the clips: about as many of the published training had given frames, nearly all the first


class OpenSora(PretrainedFamily):
    """`hpcai-tech/OpenSora-STDiT-v3` with `hpcai-tech/OpenSora-VAE-v1.2`, and models of their kind."""

    name = "opensora"
    pipelines: ClassVar = {"text-to-video": "OpenSoraPipeline", "image-to-video": "OpenSoraPipeline"}
    standard = Defaults(51, 240, 424, 24.0, 30, 7.0)
    lora_targets = ("attn.qkv", "attn.proj", "cross_attn.q_linear", "cross_attn.kv_linear", "cross_attn.proj")
    timesteps = "logit_normal"
    published = (
        Published("hpcai-tech/OpenSora-STDiT-v3", ("text-to-video", "image-to-video"), "Apache-2.0", 1.2, 25.5),
    )

    def pipeline(self, name: str) -> Any:
        """Our own: diffusers has none."""
        return OpenSoraPipeline

    def index(self, path: Path) -> dict[str, Any]:
        """Its parts are published without a model_index.json."""
        return {"_class_name": "OpenSoraPipeline"}

    def save(self, pipe: Any, folder: Path) -> None:
        """The transformer, links to all that did not change, and a model_index.json."""
        for part in pipe.parts.keys() - self.trainable(pipe).keys():
            shutil.copytree(pipe.parts[part], folder / part, copy_function=link, dirs_exist_ok=True)
        for name, module in self.trainable(pipe).items():
            module.save_pretrained(folder / name, safe_serialization=True)  # pyright: ignore[reportCallIssue]
        index = {"_class_name": OpenSoraPipeline.__name__, **CLASSES}
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def rules(self, pipe: Any) -> ShapeRules:
        """Whole chunks of 17 frames, and sides that the autoencoder can halve three times."""
        return pipe.rules

    def schedule(self, pipe: Any) -> Schedule:
        """The straight path, with the shift of the videos that it is trained on."""
        shape = self.defaults(pipe)
        return Schedule("flow", 1000, shift(pipe.vae.latent_frames(shape.num_frames), shape.height, shape.width))

    @torch.no_grad()
    def embed(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        """T5's token embeddings, filled up; of the empty caption the learned ones."""
        learned = pipe.no_caption  # [L, D]
        if not caption:
            mask = torch.ones(len(learned), dtype=torch.bool)
            return {"encoder_hidden_states": learned.clone(), "encoder_attention_mask": mask}
        text = {name: value[0] for name, value in pipe.encode_prompt([caption]).items()}
        hidden, mask = text["encoder_hidden_states"], text["encoder_attention_mask"]
        missing = len(learned) - len(mask)
        return {
            "encoder_hidden_states": nn.functional.pad(hidden, (0, 0, 0, missing)),  # [L, D]
            "encoder_attention_mask": nn.functional.pad(mask, (0, missing)),  # [L]
        }

    @torch.no_grad()
    def encode_video(self, pipe: Any, video: Tensor) -> Latents:
        """The autoencoder's latents, which it normalises itself; videos one by one."""
        vae = pipe.vae
        self.rules(pipe).check(video.shape[2:])
        found = [vae.encode(one[None].to(vae.device, vae.dtype)).latent_dist for one in video]
        mean, logvar = torch.cat([one.mean for one in found]), torch.cat([one.logvar for one in found])
        return Latents(mean.float(), logvar.float())

    def conditions(
        self, pipe: Any, items: Mapping[str, Any], x_0: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """The frame rate, and of some clips the first frame, so that it goes on making videos from images."""
        given = first_given(x_0)
        drawn = [float(torch.rand((), generator=generator)) < FIRST_GIVEN for generator in generators]
        given["frame_mask"] |= ~torch.tensor(drawn, device=x_0.device)[:, None]
        return {"fps": x_0.new_full((len(x_0),), self.defaults(pipe).fps), **given}

    def predict(
        self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Tensor:
        """noise - x_0."""
        told = {"fps": x_t.new_full((len(x_t),), self.defaults(pipe).fps), **condition}
        return velocity(modules["transformer"], x_t, t, told, pipe.vae.strides)

    def arguments(self, pipe: Any, task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The frame rate of its motion too. Raises UsageError where a last frame is given."""
        if "last_image" in settings:
            raise UsageError("An opensora model takes no last frame: leave out --last_image.")
        return {**super().arguments(pipe, task, settings), "fps": self.defaults(pipe).fps}
