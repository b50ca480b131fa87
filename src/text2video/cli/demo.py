"""`text2video demo`: videos of the model that comes with the package, then the main job from nothing to a report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..shipped import SHIPPED
from .results import table, write_page
from .terminal import progress, say

if TYPE_CHECKING:
    from ..config import RunConfig

CONFIG = Path(__file__).parents[1] / "assets" / "demo.yaml"
PROMPTS, BATCH = 256, 16
FIRST = 6  # videos of the model that comes with the package
SHOWN = 200  # clips written to look at: training draws the same itself
FAST = (
    '--stages=[{"num_frames":4,"max_steps":1},{"max_steps":2}] --batch_size=2 --num_workers=0 --val_samples=2 '
    "--num_inference_steps=2"
)


def demo(*, output_dir: Path = Path("runs/demo"), fast: bool = False) -> None:
    """Make a demo data set, train a small model on it, generate, check, and write one HTML report.

    Before that, it shows videos of the model that comes with the package.

    Prompts are of combinations of colour, shape and motion that no training clip has. A demo that was stopped goes on
    where it stood when it is started again.

    Args:
        output_dir: The folder of data, run and report: a new one, or that of a demo before.
        fast: A tiny run in seconds, to see that everything works; its videos show nothing.
    """
    from ..config import RunConfig
    from ..data.shapes import write
    from ..evaluation.shapes import evaluate_shapes
    from ..families.devices import choose_device, choose_dtype
    from ..families.opening import open_model
    from ..training.trainer import train

    config = RunConfig.load(CONFIG, [f"--output_dir={output_dir}", *(FAST.split() if fast else ())])
    data, final, evaluation, page = (output_dir / name for name in ("data", "final", "evaluation", "report.html"))
    prompts, clips = (8, 16) if fast else (PROMPTS, SHOWN)
    begin(config)
    times: dict[str, float] = {}

    @contextmanager
    def stage(name: str, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        times[name] = time.perf_counter() - started
        say(f"{name:<11}{times[name]:>7.1f} s   {what}")

    with stage("first", f"videos of the model {SHIPPED}, {output_dir / SHIPPED / 'contact_sheet.png'}"):
        show(output_dir / SHIPPED, fast)
    with stage("data", f"{clips} clips in {data}"), progress("writing clips", "clips") as report:
        if not data.exists():  # it appears whole or not at all
            world: Any = config.data.shapes
            frames, objects = config.data.num_frames, world.max_objects
            write(data, clips, world.shapes_seed, frames, max_objects=objects, progress=report)
    done = final.is_dir()
    with stage("training", f"{'done before, ' if done else ''}model in {final}"):
        if not done:
            train(config, resume=True)
    with stage("evaluation", f"{prompts} videos, {evaluation}"), progress("evaluating", "videos") as report:
        family, pipe = open_model(final, choose_device(config.train.device), choose_dtype("float32"))
        result = evaluate_shapes(family, pipe, prompts, batch_size=BATCH, model=str(final), on_progress=report)
        result.save(evaluation)
    with stage("report", "one page, with all that it shows inside"):
        write_page(page, result, output_dir, times)
    for line in table(result):
        say(line)
    say(page)
    say(f"accuracy: {result.accuracy.rate:.1%}")


def show(folder: Path, fast: bool) -> None:
    """Videos of the model that comes with the package, and one picture of them all, where they are not there yet."""
    if (folder / "contact_sheet.png").exists():  # what is written last
        return
    from ..evaluation.shapes import split_prompts
    from ..families.base import AS_USUAL
    from ..generation import Settings
    from .videos import Videos

    extras = {"save_gif": False, "save_frames": False, "visualize": True}
    videos = Videos(SHIPPED, "auto", "auto", AS_USUAL, folder, None, extras, batch_size=FIRST)
    prompts = split_prompts("heldout", 2 if fast else FIRST)
    with progress("generating", "steps") as report:
        list(videos.make(prompts, Settings(num_inference_steps=2 if fast else None), report))


def begin(config: "RunConfig") -> None:
    """Make the folder a demo's: its run.yaml stands there from the start. A folder that holds other things is refused.

    Raises:
        UsageError: there is something else in the folder.
    """
    from ..config import RunConfig
    from ..data.clips import write_file
    from ..errors import UsageError

    folder, mark = config.output_dir, config.output_dir / "run.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    if all(path.name.startswith(".") for path in folder.iterdir()):
        write_file(mark, config.to_yaml())
    before = RunConfig.load(mark) if mark.is_file() else None
    if before:  # the folder may go by another path now
        before.output_dir, before.data.data_dir = config.output_dir, config.data.data_dir
    if before != config:
        raise UsageError(
            f"{folder} holds something else than this demo, and nothing is overwritten: choose another --output_dir."
        )
