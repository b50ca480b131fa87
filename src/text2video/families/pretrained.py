"""What all pretrained families share: a diffusers pipeline that is opened, asked, trained and saved.

Generation calls diffusers' own pipeline, so that a video is the one that plain diffusers makes of the same seed.
Training calls the denoiser alone, through `predict`. What did not learn is never written again: a saved model holds
links to it.
"""

import inspect
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from ..diffusion.schedules import DPM, PREDICTIONS, SAMPLERS, Schedule
from ..errors import ModelError, UsageError
from ..models.codecs import Geometry, Latents, encode, geometry_of
from ..pipelines import aligned, leave_on_disk, left_on_disk, link
from ..sizes import Bucket, ShapeRules
from .base import AS_USUAL, Defaults, Opening, Published, Task
from .devices import placed
from .precision import is_quantized, quantizers

REMEMBERED = 4 << 30  # bytes of captions' embeddings that are kept: 500 to 20,000 captions


class PretrainedFamily:
    """A kind of model of diffusers. A subclass names its parts, and says what of it differs.

    Class attributes:
        name: of the family.
        pipelines: task -> class of diffusers that does it with the same components.
        standard: how it makes videos when it is not told otherwise.
        options: sampling options of its own, handed to its pipeline by name.
        denoiser_names: components that predict.
        frozen: components that training can do without once latents and embeddings are there.
        lora_targets: layers that adapters go to.
        comfyui_prefix, comfyui_names: how ComfyUI names those layers.
        timesteps: how training draws timesteps.
        dtype: what it computes in on a GPU.
        published: models of its kind that can be had.
        patch: what the denoiser takes together of latents: frames, height, width.
    """

    name: ClassVar[str]
    pipelines: ClassVar[Mapping[Task, str]]
    standard: ClassVar[Defaults]
    options: ClassVar[frozenset[str]] = frozenset()
    denoiser_names: ClassVar[tuple[str, ...]] = ("transformer",)
    frozen: ClassVar[tuple[str, ...]] = ("vae", "text_encoder")
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    comfyui_prefix: ClassVar[str | None] = None
    comfyui_names: ClassVar[Mapping[str, str]] = {}
    timesteps: ClassVar[str] = "uniform"
    dtype: ClassVar[torch.dtype] = torch.bfloat16
    published: ClassVar[tuple[Published, ...]] = ()
    patch: ClassVar[tuple[int, int, int]] = (1, 1, 1)

    def __init__(self) -> None:
        self.embeddings: Callable[[str], dict[str, Tensor]] | None = None
        self._known: dict[str, dict[str, Tensor]] = {}  # caption -> what `embed` gave, on the CPU
        self._bytes = 0  # of them

    # --- the pipeline -------------------------------------------------------------------------------------------

    def open(
        self,
        path: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        trainable_only: bool = False,
        opening: Opening = AS_USUAL,
    ) -> Any:
        """The diffusers pipeline in a folder, from safetensors only and without a network.

        Raises:
            ModelError: the folder does not hold all of it.
        """
        index = self.index(path)
        quantized: dict[str, Any] = {}
        if opening.quantize:
            names = [name for name in self.denoiser_names if name in index]
            quantized = {"quantization_config": quantizers(opening.quantize, names, dtype)}
        left = {name: path / name for name in self.frozen if trainable_only and (index.get(name) or [None])[0]}
        try:
            pipe = self.pipeline(self.opened_as(index["_class_name"], opening)).from_pretrained(
                path,
                dtype=dtype,
                variant=opening.variant,
                use_safetensors=True,
                local_files_only=True,
                **quantized,
                **self.components(path, dtype, opening)
                | dict.fromkeys([*left, *(name for name in opening.without if name in index)]),
            )
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"The {self.name} model in {str(path)!r} cannot be opened: {reason}") from None
        if opening.quantize and not all(map(is_quantized, self.denoisers(pipe).values())):
            raise UsageError(f"The denoiser of a {self.name} model cannot be quantised: leave out --quantize.")
        for part in pipe.components.values():
            if isinstance(part, nn.Module) and not is_quantized(part):
                aligned(part).eval().requires_grad_(False)
        leave_on_disk(pipe, left, dtype)
        pipe.source = path
        return placed(pipe, device, opening.offload)

    def index(self, path: Path) -> dict[str, Any]:
        """What model_index.json says: the pipeline's class, and library and class of each part."""
        return json.loads((path / "model_index.json").read_text(encoding="utf-8"))

    def pipeline(self, name: str) -> Any:
        """The pipeline's class of that name."""
        import diffusers

        return getattr(diffusers, name)

    def opened_as(self, name: str, opening: Opening) -> str:
        """The pipeline class that a folder is opened with, where `name` is the one that it names."""
        return name

    def components(self, path: Path, dtype: torch.dtype, opening: Opening) -> dict[str, Any]:
        """Components that are not in the folder, or not to be opened as it says. Raises UsageError on unknown parts."""
        if opening.parts:
            raise UsageError(f"A {self.name} model takes no {' or '.join(opening.parts)}.")
        return {}

    def tasks(self, pipe: Any) -> tuple[Task, ...]:
        """What it can make videos from."""
        return tuple(self.pipelines)

    def rules(self, pipe: Any) -> ShapeRules:
        """The videos that codec and denoiser can take."""
        return self.codec_rules(pipe, self.patch)

    @staticmethod
    def codec_rules(pipe: Any, patch: tuple[int, int, int]) -> ShapeRules:
        """The videos whose latents a denoiser can take that wants multiples of `patch`."""
        geometry = Geometry.read(left_on_disk(pipe)["vae"]) if pipe.vae is None else geometry_of(pipe.vae)
        return geometry.rules(ShapeRules.multiples(*patch))

    def defaults(self, pipe: Any) -> Defaults:
        """How it makes videos when it is not told otherwise."""
        return getattr(pipe, "adapted", None) or self.standard_of(pipe)

    def standard_of(self, pipe: Any) -> Defaults:
        """How the model was published, where a family has several."""
        return self.standard

    def adapt(self, pipe: Any, shape: Bucket, fps: float | None) -> None:
        """Shape and frame rate of previews; a saved model goes by its family's own."""
        own = self.standard_of(pipe)
        pipe.adapted = replace(
            own, num_frames=shape.frames, height=shape.height, width=shape.width, fps=float(fps or own.fps)
        )

    def use_text_encoder(self, pipe: Any, name: str) -> Any:
        """Its text encoder is part of what it learned.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"A {self.name} model keeps its own text encoder: leave out --text_encoder {name}.")

    def use_sampler(self, pipe: Any, name: str) -> None:
        """Change the scheduler to another by our name, on the noise that the model was trained with.

        Raises:
            UsageError: there is none of that name that can follow it.
        """
        schedule = self.schedule(pipe)
        flow = schedule.is_flow
        fitting = [ours for ours in SAMPLERS if ours not in (NOT_FLOW if flow else ("flow",))]
        if name not in fitting:
            raise UsageError(f"A {self.name} model has no sampler {name!r}. Choose one of {', '.join(fitting)}.")
        ours: dict[str, Any] = {"shift": schedule.shift} if name == "flow" else {}
        if flow and name != "flow":
            ours = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": schedule.shift}
        pipe.scheduler = SAMPLERS[name].from_config(pipe.scheduler.config, **DPM.get(name, {}), **ours)

    def save(self, pipe: Any, folder: Path) -> None:
        """The denoisers' weights, and links to all that did not change."""
        learned = self.trainable(pipe)
        folder.mkdir(parents=True, exist_ok=True)
        link(str(pipe.source / "model_index.json"), str(folder / "model_index.json"))
        for name, kind in self.index(pipe.source).items():  # what else lies in the model's folder is not the model
            if isinstance(kind, list) and name not in learned and (pipe.source / name).is_dir():
                shutil.copytree(pipe.source / name, folder / name, copy_function=link)
        for name, module in learned.items():
            module.save_pretrained(folder / name, safe_serialization=True)  # pyright: ignore[reportCallIssue]

    # --- training -----------------------------------------------------------------------------------------------

    def denoisers(self, pipe: Any) -> dict[str, nn.Module]:
        """The components that predict."""
        return {name: part for name in self.denoiser_names if (part := getattr(pipe, name, None)) is not None}

    def trainable(self, pipe: Any) -> dict[str, nn.Module]:
        """The denoisers: encoders are frozen."""
        return self.denoisers(pipe)

    def begin(self, pipe: Any, videos: Callable[[], Iterable[Tensor]]) -> None:
        """Nothing."""

    def settle(self, pipe: Any, videos: Callable[[], Iterable[Tensor]]) -> None:
        """Nothing."""

    def learns(self, name: str) -> bool:
        """All weights of the denoisers."""
        return True

    def schedule(self, pipe: Any) -> Schedule:
        """The noise schedule of its scheduler."""
        return Schedule.from_scheduler(pipe.scheduler)

    def prediction(self, pipe: Any) -> str:
        """What its scheduler takes, in our words."""
        names = {theirs: ours for ours, theirs in PREDICTIONS.items()}
        return names[pipe.scheduler.config.get("prediction_type", "flow_prediction")]

    def embed(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        """What the denoiser is told of one caption: name -> tensor without a batch axis."""
        raise NotImplementedError

    @torch.no_grad()
    def encode_text(self, pipe: Any, modules: dict[str, nn.Module], captions: Sequence[str]) -> dict[str, Tensor]:
        """Captions -> condition of the denoiser. A caption is not read again while there is room for what was read."""
        rows = [self._read(pipe, caption) for caption in captions]
        return {name: torch.stack([row[name] for row in rows]).to(pipe.device) for name in rows[0]}

    def _read(self, pipe: Any, caption: str) -> dict[str, Tensor]:
        if found := self._known.get(caption):
            return found
        with torch.autocast(pipe.device.type, enabled=False):  # the same whenever a caption comes first
            read = self.embeddings(caption) if self.embeddings else self.embed(pipe, caption)
        found = self._known[caption] = {name: value.cpu() for name, value in read.items()}
        self._bytes += sum(value.nbytes for value in found.values())
        while self._bytes > REMEMBERED:
            first = self._known.pop(next(iter(self._known)))
            self._bytes -= sum(value.nbytes for value in first.values())
        return found

    def encode_video(self, pipe: Any, video: Tensor) -> Latents:
        """The codec's normalised latents."""
        return encode(pipe.vae, video)

    def encode_image(self, pipe: Any, video: Tensor) -> dict[str, Tensor]:
        """The first frame's normalised latents: `mean`, `logvar`."""
        return self.encode_video(pipe, video[:, :, :1]).named()

    def conditions(
        self, pipe: Any, items: Mapping[str, Any], x_0: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """Nothing besides the captions."""
        return {}

    def predict(
        self, pipe: Any, modules: dict[str, nn.Module], x_t: Tensor, t: Tensor, condition: dict[str, Any]
    ) -> Tensor:
        """The denoiser's prediction `[B, C, t, h, w]`."""
        raise NotImplementedError

    # --- generation ---------------------------------------------------------------------------------------------

    def sample(
        self,
        pipe: Any,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        on_step: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> Tensor:
        """Videos `[B, 3, T, H, W]` in [-1, 1], made one by one by the diffusers pipeline of the task.

        Raises:
            UsageError: the model does not do what is asked for.
        """
        if settings.pop("guidance_interval", None) is not None:
            raise UsageError(f"A {self.name} model has guidance at every noise level: leave out --guidance_interval.")
        task = task_of(settings)
        if task not in self.tasks(pipe):
            able = ", ".join(self.tasks(pipe))
            raise UsageError(f"This {self.name} model does not do {task}, only {able}. {HOW[self.tasks(pipe)[0]]}")
        self.rules(pipe).check([settings[name] for name in ("num_frames", "height", "width")])
        runner = self.runner(pipe, task)
        videos = []
        for prompt, generator in zip(prompts, generators, strict=True):
            with steps_reported(runner, on_step):
                arguments = self.arguments(pipe, task, {"prompt": prompt, **settings})
                videos.append(self.frames(runner(**arguments, generator=generator, output_type="pt")))
        return torch.cat(videos).permute(0, 2, 1, 3, 4).float() * 2 - 1  # [B, 3, T, H, W]

    def runner(self, pipe: Any, task: Task) -> Any:
        """The diffusers pipeline that does a task with the components of `pipe`."""
        kind = self.kind(pipe, task)
        if type(pipe) is kind:
            return pipe
        own = {**pipe.config, **pipe.components}  # `from_pipe` would cast all weights, to float32
        return kind(**{name: own[name] for name in inspect.signature(kind).parameters if name in own})

    def kind(self, pipe: Any, task: Task) -> Any:
        """The pipeline class that does a task."""
        return self.pipeline(self.pipelines[task])

    def arguments(self, pipe: Any, task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the task's pipeline is called with; settings that it does not know are those that its inputs fix."""
        known = inspect.signature(self.kind(pipe, task).__call__).parameters
        given = {name: value for name, value in settings.items() if name in known}
        for name in ("image", "last_image"):
            if name in given:
                given[name] = Image.fromarray(given[name])
        if "video" in given:
            given["video"] = self.pictures(given["video"])
        return given

    @staticmethod
    def pictures(video: np.ndarray) -> list[Image.Image]:
        """`[T, H, W, 3]` uint8 -> its frames, as pipelines take them."""
        return [Image.fromarray(frame) for frame in video]

    def frames(self, output: Any) -> Tensor:
        """A pipeline's output -> frames `[B, T, 3, H, W]` in [0, 1]."""
        return output.frames


HOW = {
    "text-to-video": "Leave out --image and --video.",
    "image-to-video": "Give its first frame by --image.",
    "video-to-video": "Give the video that it starts from by --video.",
}
NOT_FLOW = ("ddpm", "ddim", "euler")  # schedulers that know no straight path


def task_of(settings: Mapping[str, Any]) -> Task:
    """The task that a request means: by what is given besides the prompt."""
    if settings.get("video") is not None:
        return "video-to-video"
    return "text-to-video" if settings.get("image") is None else "image-to-video"


@contextmanager
def steps_reported(pipe: Any, on_step: Callable[[int, int], None] | None) -> Iterator[None]:
    """Within, each sampling step of a diffusers pipeline calls `on_step(done, steps)`, and no bar is drawn."""
    pipe.progress_bar = lambda iterable=None, total=None: _Steps(iterable, total, on_step)
    try:
        yield
    finally:
        del pipe.progress_bar


class _Steps:
    """Stands where a pipeline expects its progress bar."""

    def __init__(self, iterable: Any, total: int | None, on_step: Callable[[int, int], None] | None):
        self.iterable, self.on_step, self.done = iterable, on_step, 0
        self.total = len(iterable) if total is None else total

    def __enter__(self) -> "_Steps":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable:
            yield item
            self.update()

    def update(self, steps: int = 1) -> None:
        self.done += steps
        if self.on_step:
            self.on_step(self.done, self.total)
