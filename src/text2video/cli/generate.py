"""`text2video generate`: prompts from the command line, a file or the keyboard, to videos on disk."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from ..errors import UsageError
from ..shipped import SHIPPED
from .answering import AS_GIVEN, Polishing
from .prompts import ask, asked_prompts, read_prompts
from .sampling import AS_TRAINED, AS_USUAL, EXAMPLES, NO_OPTIONS, Opened, Options, Sampling, numbers, pairs
from .terminal import progress, say


def generate(
    *,
    model: Annotated[Path | None, Parameter(name=["--model", "--model_path", "--checkpoint"])] = None,
    prompts: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    prompt: str | None = None,
    prompt_file: Path | None = None,
    output_dir: Path = Path("outputs"),
    output_video: Path | None = None,
    save_gif: bool = False,
    save_frames: bool = False,
    visualize: bool = False,
    sampling: Sampling = AS_TRAINED,
    options: Options = NO_OPTIONS,
    opened: Opened = AS_USUAL,
    polishing: Polishing = AS_GIVEN,
    batch_size: PositiveInt = 1,
    stream: bool = False,
    window: PositiveInt | None = None,
    device: str = "auto",
    dtype: str = "auto",
    model_class: str | None = None,
) -> None:
    """Make videos from prompts with a trained model.

    Beside each video stands a JSON file with its prompt, seed and settings. Without a model the one is used that comes
    with the package. With neither model nor prompts it asks for both; an empty line ends.

    Args:
        model: A run's folder, the model's folder in it, or a model's name; else moving-shapes, of the package.
        prompts: One or more prompts, each in quotes.
        prompt: One prompt.
        prompt_file: A text file with a prompt a line.
        output_dir: Folder for the videos, which are named by their prompts.
        output_video: File for one video, in place of output_dir.
        save_gif: Also write each video as a GIF.
        save_frames: Also write each frame as a PNG.
        visualize: Also write frames side by side as a PNG, of each video and of all together.
        batch_size: Videos sampled together.
        stream: Make and write each video block of frames by block, of any length; for causal models.
        window: With stream: how many frames before it a block sees; without it, as many as in training.
        device: auto, cpu, cuda or mps.
        dtype: float32, bfloat16, float16 or auto.
        model_class: Your own class that the model is of, as module:Class.
    """
    wanted = [*(prompts or []), *([prompt] if prompt is not None else [])]
    wanted += read_prompts(prompt_file) if prompt_file else []
    if prompts == []:
        raise UsageError("--prompts needs at least one prompt, in quotes.")
    if any(not text.strip() for text in wanted):
        raise UsageError("A prompt is empty. Say in it what the video shows.")
    if output_video:
        check_one_video(output_video, len(wanted) * sampling.num_videos_per_prompt)
    for name in ("condition", "condition_scale"):
        if getattr(sampling, name) == []:
            raise UsageError(f"--{name} needs at least one NAME=VALUE, as in --{name} {EXAMPLES[name]}.")
    check_rate(sampling.fps, save_gif or bool(output_video and output_video.suffix.lower() == ".gif"))
    extras = {"save_gif": save_gif, "save_frames": save_frames, "visualize": visualize}
    check_stream(stream, window, [name for name, value in extras.items() if value], batch_size, output_video)

    model = model or (SHIPPED if wanted else ask_model())

    from ..families.imports import import_class
    from ..generation import Settings
    from .videos import Videos

    if model_class:
        import_class(model_class)
    values = asdict(sampling)
    side, seed = values.pop("frame_size"), values.pop("seed")
    values["conditions"] = pairs(values.pop("condition"), "condition")
    values["condition_scales"] = numbers(values.pop("condition_scale"), "condition_scale")
    values |= {"height": sampling.height or side, "width": sampling.width or side}
    videos = Videos(model, device, dtype, opened.opening(), output_dir, output_video, extras, batch_size)
    for asked in [wanted] if wanted else asked_prompts():
        some = polishing(asked)
        settings = Settings(**values, options=options.given(), seed=seed)
        with progress("generating", "frames" if stream else "steps") as report:
            for path in (
                videos.stream(some, settings, report, window) if stream else videos.make(some, settings, report)
            ):
                say(path)
        seed += len(some) * sampling.num_videos_per_prompt


def ask_model() -> Path:
    """The model's path from the keyboard, or the model of the package."""
    answer = ask(f"Model (Enter for {SHIPPED}): ")
    return Path(answer).expanduser() if answer else SHIPPED


def check_one_video(path: Path, count: int) -> None:
    """Whether the videos fit into the one file that is named."""
    if count > 1:
        raise UsageError(f"--output_video names one file, and {count} videos are asked for. Use --output_dir for them.")
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise UsageError(f"--output_video is {path}. A video is written as .mp4 or .gif: let the name end so.")
    beside = path.with_suffix(".json")
    if beside.exists() and not is_settings(beside):
        raise UsageError(
            f"{beside} stands where the settings of {path} belong, and it was not written by generate. "
            "Give the video another name."
        )


def check_rate(fps: float | None, gif: bool) -> None:
    """Whether a file can have the frame rate that is asked for."""
    from ..video import writable

    if fps is not None and not writable(fps, ".gif" if gif else ".mp4"):
        raise UsageError(
            f"--fps is {fps:g}. It has to be at least 0.001, and at most 50 for a GIF: give another, or no GIF."
        )


def check_stream(
    stream: bool, window: int | None, extras: list[str], batch_size: int, output_video: Path | None
) -> None:
    """Whether what is asked for goes with frames that are written as they come, or without."""
    if not stream:
        if window is not None:
            raise UsageError("--window says how far a stream looks back: add --stream, or leave it out.")
        return
    unfit = [f"--{name}" for name in extras] + ["--batch_size"] * (batch_size > 1)
    unfit += ["--output_video with .gif"] * (output_video is not None and output_video.suffix.lower() == ".gif")
    if unfit:
        raise UsageError(
            f"--stream writes the frames of one MP4 after another and keeps none, so it has no {', '.join(unfit)}. "
            "Leave out one or the other."
        )


def is_settings(path: Path) -> bool:
    """Whether a file holds the settings of a generated video."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"prompt", "seed", "model"} <= found.keys()
