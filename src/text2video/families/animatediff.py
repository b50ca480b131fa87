"""AnimateDiff (Guo et al. 2023, arXiv:2307.04725): a model of images that motion modules turn into one of videos.

The modules, a `MotionAdapter`, lie between the layers of a Stable Diffusion U-Net and attend along time. A folder is
opened that holds both, or a folder of Stable Diffusion 1.5 with the adapter's folder beside it. When the model learns,
only the motion modules do, as in the published training (guoyww/AnimateDiff, configs/training/v1/training.yaml:
`motion_modules.`, linear betas, epsilon, uniform timesteps), so that they fit any model of the same kind afterwards.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import ModelError, UsageError
from ..pipelines import link
from ..sizes import ShapeRules
from .base import AS_USUAL, Defaults, Opening, Published, Task
from .catalog import on_this_machine
from .devices import placed
from .opening import model_folder
from .pretrained import PretrainedFamily

IMAGES = "StableDiffusionPipeline"
ADAPTER = "guoyww/animatediff-motion-adapter-v1-5-2"
PARTS = {"motion_adapter": "MotionAdapter", "controlnet": "ControlNetModel"}  # name -> class


class AnimateDiff(PretrainedFamily):
    """Stable Diffusion 1.5 with a motion adapter, and with a ControlNet where one is given."""

    name = "animatediff"
    pipelines: ClassVar = {"text-to-video": "AnimateDiffPipeline", "video-to-video": "AnimateDiffVideoToVideoPipeline"}
    # the settings of diffusers' documentation, 25 steps of DDIM among them
    standard = Defaults(16, 512, 512, 8.0, 25, 7.5, "bad quality, worse quality")
    options = frozenset({"decode_chunk_size"})
    denoiser_names = ("unet",)
    dtype = torch.float16
    published = (
        Published(
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            ("text-to-video", "video-to-video"),
            "CreativeML Open RAIL-M",
            1.3,
            6.1,
            {"motion_adapter": ADAPTER},
        ),
    )

    # --- the pipeline -------------------------------------------------------------------------------------------

    def opened_as(self, name: str, opening: Opening) -> str:
        """A pipeline of videos, with a ControlNet or without."""
        controlled = "AnimateDiffControlNetPipeline"
        return controlled if controlled == name or "controlnet" in opening.parts else "AnimateDiffPipeline"

    def open(
        self,
        path: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        trainable_only: bool = False,
        opening: Opening = AS_USUAL,
    ) -> Any:
        """The pipeline of a folder and of the parts beside it; the motion modules are in its U-Net alone."""
        pipe = super().open(path, torch.device("cpu"), dtype, trainable_only, replace(opening, offload="none"))
        if "motion_adapter" in opening.parts and pipe.unet is not None:  # the folder may have had another
            try:
                pipe.unet.load_motion_modules(pipe.motion_adapter)
            except (RuntimeError, IndexError, AttributeError) as error:
                reason = " ".join(str(error).split())
                raise ModelError(
                    f"The motion adapter {opening.parts['motion_adapter']} does not fit {path}: {reason}"
                ) from None
        pipe.register_modules(motion_adapter=None)
        return placed(pipe, device, opening.offload)

    def components(self, path: Path, dtype: torch.dtype, opening: Opening) -> dict[str, Any]:
        """The parts beside the folder; for a model of images also the sampler that motion modules were trained with.

        Raises:
            UsageError: it is a model of images, and there is no motion adapter.
        """
        rest = {name: folder for name, folder in opening.parts.items() if name not in PARTS}
        found = super().components(path, dtype, replace(opening, parts=rest))
        for name in PARTS.keys() & opening.parts.keys():
            found[name] = opened_part(name, opening.parts[name], dtype)
        index = self.index(path)
        of_images = index.get("unet", [None, None])[1] == "UNet2DConditionModel"
        adapted = "motion_adapter" in found or index.get("motion_adapter", [None])[0]
        if of_images and not adapted and "unet" not in opening.without:
            raise UsageError(
                f"The model in {str(path)!r} makes pictures. To make videos it needs a motion adapter: fetch one by "
                f"`hf download {ADAPTER}` and give it by --motion_adapter {ADAPTER}. "
                "Without one, `text2video train` makes a model of videos of it, and `text2video generate --pipeline "
                "TextToVideoZeroPipeline` simple videos."
            )
        if index["_class_name"] != IMAGES:
            return found
        from diffusers import DDIMScheduler

        found["scheduler"] = DDIMScheduler.from_pretrained(
            path / "scheduler", beta_schedule="linear", timestep_spacing="linspace", clip_sample=False, steps_offset=1
        )
        return {**found, "feature_extractor": None, "image_encoder": None}

    def tasks(self, pipe: Any) -> tuple[Task, ...]:
        """With a ControlNet, videos that follow another; else from text or from another video."""
        return ("video-to-video",) if steered(pipe) else super().tasks(pipe)

    def rules(self, pipe: Any) -> ShapeRules:
        """As many frames as the motion modules have places for; sizes that the codec can take."""
        rules = super().rules(pipe)
        return replace(rules, frames=replace(rules.frames, most=pipe.unet.config.motion_max_seq_length))

    def save(self, pipe: Any, folder: Path) -> None:
        """A folder of its own kind, with the motion modules also as an adapter for other models.

        Where the motion modules alone learned, a U-Net of images is linked and not written again.
        """
        index = self.index(pipe.source)
        parts = {name: kind for name, kind in index.items() if isinstance(kind, list) and kind[0] is not None}
        if index["_class_name"] == IMAGES:
            parts = {name: kind for name, kind in parts.items() if name not in ("safety_checker", "feature_extractor")}
        of_images = parts["unet"][1] != "UNetMotionModel"
        trained = any(parameter.requires_grad for parameter in pipe.unet.parameters())  # see `learns`
        as_it_was = of_images and trained
        for name in parts.keys() - {"motion_adapter", "scheduler", *([] if as_it_was else ["unet"])}:
            shutil.copytree(pipe.source / name, folder / name, copy_function=link)
        pipe.unet.save_motion_modules(folder / "motion_adapter")
        pipe.scheduler.save_pretrained(folder / "scheduler")
        if not as_it_was:
            pipe.unet.save_pretrained(folder / "unet")
            parts["unet"] = ["diffusers", "UNetMotionModel"]
        parts["motion_adapter"] = ["diffusers", "MotionAdapter"]
        parts["scheduler"] = ["diffusers", type(pipe.scheduler).__name__]
        kind = "AnimateDiffControlNetPipeline" if "controlnet" in parts else "AnimateDiffPipeline"
        found = {"_class_name": kind, "_diffusers_version": index.get("_diffusers_version"), **parts}
        (folder / "model_index.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    # --- training -----------------------------------------------------------------------------------------------

    def learns(self, name: str) -> bool:
        """The motion modules alone."""
        return ".motion_modules." in name

    def embed(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        """CLIP's token embeddings."""
        hidden, _ = pipe.encode_prompt(caption, pipe.device, 1, False)
        return {"encoder_hidden_states": hidden[0]}  # [77, D]

    def predict(
        self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Tensor:
        """The U-Net's epsilon; it takes the caption once for each frame."""
        hidden = condition["encoder_hidden_states"].repeat_interleave(x_t.shape[2], dim=0)  # [B T, 77, D]
        dtype = pipe.unet.dtype  # of a base in half precision, also where nothing casts by itself
        return modules["unet"](x_t.to(dtype), t, hidden.to(dtype), return_dict=False)[0]

    # --- generation ---------------------------------------------------------------------------------------------

    def kind(self, pipe: Any, task: Task) -> Any:
        """With a ControlNet, its own pipeline."""
        return type(pipe) if steered(pipe) else super().kind(pipe, task)

    def arguments(self, pipe: Any, task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A ControlNet takes the video as what steers it, frame by frame.

        Raises:
            UsageError: a strength is given with a ControlNet.
        """
        if steered(pipe) and "strength" in settings:
            raise UsageError("With --controlnet the video only steers the new one, all of which is made anew: leave "
                             "out --strength, or --controlnet.")  # fmt: skip
        given = super().arguments(pipe, task, settings)
        return {**given, "conditioning_frames": self.pictures(settings["video"])} if steered(pipe) else given


def steered(pipe: Any) -> bool:
    """Whether a ControlNet is part of a pipeline."""
    return getattr(pipe, "controlnet", None) is not None


def opened_part(name: str, folder: Path, dtype: torch.dtype) -> Any:
    """The motion adapter or ControlNet in a folder, or by its name on the Hub; of a model's folder, that part of it.

    Raises:
        ModelError: there is none that can be read.
    """
    import diffusers

    if not folder.exists():
        found = on_this_machine(folder.as_posix(), "config.json")
        if found is None:
            raise ModelError(
                f"--{name} {folder.as_posix()} is not on this machine. Fetch it where there is a network: "
                f"hf download {folder.as_posix()}"
            )
        folder = found
    elif not (folder / "config.json").is_file():
        folder = model_folder(folder) / name
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name")
        if kind == PARTS[name]:
            return getattr(diffusers, kind).from_pretrained(folder, dtype=dtype, use_safetensors=True)
        reason = f"it holds a {kind}"
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
    raise ModelError(f"--{name} {str(folder)!r} is no {PARTS[name]}: {reason}. Give the folder that holds one.")
