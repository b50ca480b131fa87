"""What is looked at between the steps of a run: the validation loss, and videos of the averaged weights."""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from .. import video
from ..data.dataset import to_float
from ..diffusion.objectives import Batch
from ..generation import Settings, file_names, generate, to_uint8
from ..pipelines import completed
from .data import collate, encoded
from .draws import draw_latents, generator
from .tracking import Tracker

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger("text2video")


@torch.no_grad()
def validation_loss(trainer: "Trainer") -> float | None:
    """The loss of the averaged weights on the clips kept apart, the same noise and levels every time; None without."""
    val = trainer.data.val
    if val is None:
        return None
    samples, size = trainer.config.train.val_samples, trainer.config.train.batch_size
    player, total = next(iter(trainer.optimizers)), torch.zeros(())
    predict = partial(trainer.family.predict, trainer.pipe, trainer.parts)
    # under an adapter the frozen weights are held in half precision, which needs mixed precision here too
    with trainer.averaged(), trainer.accelerator.autocast() if trainer.config.lora else nullcontext():
        for first in range(trainer.rank * size, samples, trainer.world * size):
            rows = range(first, min(first + size, samples))
            for _, group in groupby(rows, lambda row: val.shape(row % len(val))):
                batch = fixed_batch(trainer, list(group))
                total += trainer.objective.loss(predict, batch, player).cpu() * len(batch.x_0) / samples
    return trainer.sum(total)


def fixed_batch(trainer: "Trainer", rows: list[int]) -> Batch:
    """Some samples of the validation loss: row -> clip, noise and level, the same in every validation."""
    val: Any = trainer.data.val
    device = trainer.accelerator.device
    items = collate([val[row % len(val)] for row in rows])
    latents = encoded(trainer.family, trainer.pipe, items, device)
    x_0 = draw_latents(latents, [(trainer.config.seed, 31, row) for row in rows])
    noise = torch.stack([torch.randn(x_0.shape[1:], generator=generator(trainer.config.seed, 30, r)) for r in rows])
    # multiples of the golden ratio: any few of them lie evenly in (0, 1)
    u = torch.tensor([(0.5 + row * 0.6180339887) % 1 for row in rows]).clamp(1e-6, 1 - 1e-6)
    text = trainer.family.encode_text(trainer.pipe, trainer.parts, items["captions"])
    generators = [generator(trainer.config.seed, 32, row) for row in rows]
    conditions = trainer.family.conditions(trainer.pipe, items, x_0, generators)
    return Batch(x_0, noise.to(device), u.to(device), {**text, **conditions})


def sample_videos(trainer: "Trainer", tracker: Tracker, step: int) -> None:
    """Videos of the averaged weights: sampled, or of an autoencoder given back; shared among processes."""
    folder = trainer.config.output_dir / "samples" / f"{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    made = reconstructed if "reconstruction" in trainer.family.tasks(trainer.pipe) else sampled
    clips, captions = [], []
    with trainer.averaged():
        for caption, clip in made(trainer, folder):
            clips.append(clip)
            captions.append(caption)
    tracker.videos(step, clips, captions)


def sampled(trainer: "Trainer", folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Prompts and their videos, uint8 `[T, H, W, 3]`, by the path that `generate` takes.

    A model that has to be given a first frame gets those of the clips.
    """
    preview = trainer.config.preview
    source = trainer.data.val or trainer.data.train
    prompts = preview.sample_prompts or captions_of(trainer)
    begin = "text-to-video" not in trainer.family.tasks(trainer.pipe)
    if begin and "video" not in source[0]:
        return logger.warning("No sample videos: they begin with a picture, and prepared data has none.")
    # Ancestral DDPM walks 1000 steps when not told otherwise: too long to wait for between two steps of training.
    usual = trainer.family.defaults(trainer.pipe).num_inference_steps
    steps = usual and min(preview.num_inference_steps or usual, preview.max_preview_steps)
    for index in range(trainer.rank, len(prompts), trainer.world):
        path = preview_path(folder, index, prompts[index])
        image = path.with_suffix(".png") if begin else None
        if image:
            Image.fromarray(to_uint8(to_float(source[index % len(source)]["video"]))[0]).save(image)
        settings = Settings(seed=trainer.config.seed + index, num_inference_steps=steps, image=image)
        with completed(trainer.pipe):
            (result,) = generate(trainer.family, trainer.pipe, [prompts[index]], settings, str(trainer.final))
        video.write(path, result.frames, result.fps, metadata=result.metadata())
        yield prompts[index], result.frames


def reconstructed(trainer: "Trainer", folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Captions of clips and, side by side, the clip and what the autoencoder gives back: uint8 `[T, H, 2 W, 3]`."""
    source = trainer.data.val or trainer.data.train
    captions = captions_of(trainer)
    for index in range(trainer.rank, len(captions), trainer.world):
        clip = to_float(source[index]["video"])
        given_back = trainer.pipe(clip[None])[0].cpu()
        frames = np.concatenate([to_uint8(clip), to_uint8(given_back)], axis=2)
        video.write(preview_path(folder, index, captions[index]), frames, trainer.config.data.fps or 8.0)
        yield captions[index], frames


def captions_of(trainer: "Trainer") -> list[str]:
    """The captions of the first clips, of those kept apart where there are any."""
    source = trainer.data.val or trainer.data.train
    return [source[index]["caption"] for index in range(min(len(source), trainer.config.preview.num_samples))]


def preview_path(folder: Path, index: int, caption: str) -> Path:
    """Where the video of a caption is written."""
    return folder / f"{index:02d}-{file_names([caption])[0]}"
