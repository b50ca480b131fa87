"""Generated videos into files: names that overwrite no other video, and one sheet of all."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import video
from ..families.base import Opening
from ..families.devices import choose_device, choose_dtype
from ..families.opening import model_folder, open_model
from ..generation import Recipe, Settings, file_names, generate, save, stream

_ON_SHEET = 8  # frames of a video that the sheet of all shows


class Videos:
    """An open model, and where its videos go.

    Args:
        model: see `families.opening.load`.
        device, dtype: by name.
        opening: adapters, offloading and the like.
        folder: for the videos.
        file: for a single video, in place of the folder.
        extras: `save_gif`, `save_frames`, `visualize` of `generation.save`.
        batch_size: videos sampled together.
    """

    def __init__(
        self,
        model: Path,
        device: str,
        dtype: str,
        opening: Opening,
        folder: Path,
        file: Path | None,
        extras: dict[str, bool],
        batch_size: int,
    ):
        self.model = model_folder(model)
        self.family, self.pipe = open_model(self.model, choose_device(device), choose_dtype(dtype), opening)
        self.folder, self.file, self.extras, self.batch_size = folder, file, extras, batch_size
        (file.parent if file else folder).mkdir(parents=True, exist_ok=True)  # refused before the work, not after it
        self.taken: set[Path] = set()

    def make(self, prompts: Sequence[str], settings: Settings, report: Callable[[int, int], None]) -> Iterator[Path]:
        """Generate and save; the paths, as they are written. `report(done, total)` counts sampling steps."""
        videos, finished, strips = len(prompts) * settings.num_videos_per_prompt, 0, []
        batches = -(-videos // self.batch_size)

        def on_step(step: int, steps: int) -> None:
            report(finished // self.batch_size * steps + step, batches * steps)

        for result in generate(
            self.family, self.pipe, prompts, settings, str(self.model), on_step, batch_size=self.batch_size
        ):
            path = self.file or self.free(file_names([result.prompt])[0], result)
            yield from save(result, path, **self.extras)
            finished += 1
            if self.extras["visualize"]:
                chosen = np.linspace(0, len(result.frames) - 1, min(_ON_SHEET, len(result.frames))).round().astype(int)
                strips.append(result.frames[chosen])
        if len(strips) > 1:
            sheet = self.free("contact_sheet.png")
            video.contact_sheet(sheet, strips)
            yield sheet

    def stream(
        self, prompts: Sequence[str], settings: Settings, report: Callable[[int, int], None], window: int | None
    ) -> Iterator[Path]:
        """As `make`, written while they are made; `report(done, total)` counts frames."""
        for result in stream(self.family, self.pipe, prompts, settings, str(self.model), report, window):
            yield from save(result, self.file or self.free(file_names([result.prompt])[0], result))

    def free(self, name: str, result: Recipe | None = None) -> Path:
        """The path for a name, numbered where something else stands there; the very same video may be written again."""
        path, number = self.folder / name, 1
        while path in self.taken or not (may_be_written(path) or (result and is_same(path, result.metadata()))):
            number += 1
            path = self.folder / f"{Path(name).stem}-{number}{path.suffix}"
        self.taken.add(path)
        return path


def may_be_written(path: Path) -> bool:
    """Whether neither the file nor the settings beside it are there."""
    return not path.exists() and not path.with_suffix(".json").exists()


def is_same(path: Path, metadata: dict[str, Any]) -> bool:
    """Whether the settings beside a video are these."""
    try:
        return json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) == metadata
    except (OSError, ValueError):
        return False
