"""`text2video evaluate`: the exact check of a model's videos of the demo world."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt

from ..shipped import SHIPPED
from .results import table, write_page
from .sampling import NO_OPTIONS, Options
from .terminal import progress, say


def evaluate(
    *,
    model: Annotated[Path, Parameter(name=["--model", "--model_path", "--checkpoint"])] = SHIPPED,
    num_prompts: PositiveInt = 256,
    seed: NonNegativeInt = 0,
    split: Literal["heldout", "train"] = "heldout",
    world: Literal["small", "full", "moon"] | None = None,
    wording: Literal["train", "heldout"] = "train",
    max_objects: Literal[1, 2, 3] = 1,
    output_dir: Path | None = None,
    report: bool = False,
    num_inference_steps: PositiveInt | None = None,
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    scheduler: str | None = None,
    options: Options = NO_OPTIONS,
    batch_size: PositiveInt = 1,
    device: str = "auto",
    dtype: str = "float32",
    model_class: str | None = None,
) -> None:
    """Check generated videos of the demo world against their prompts, exactly.

    Written are evaluation.json, with the outcome of every prompt, and sheet.png, the first videos.

    Args:
        model: A run's folder, or its final folder; without it, the model that comes with the package.
        num_prompts: One video is made for each.
        seed: Of the first video, and of the demo world that the prompts are from.
        split: heldout: combinations of colour, shape and motion that were never trained.
        world: The demo world that the prompts are from; else that of the model's run, or small.
        wording: heldout: sentence patterns that were never trained, of the world full.
        max_objects: Shapes in a scene, at most: 2, in the world full 3, in the world moon 1.
        output_dir: Where the results go; else the folder evaluation in the model's run, or here.
        report: Also write report.html.
        num_inference_steps: Sampling steps; else the model's own.
        guidance_scale: Classifier-free guidance; else the model's own.
        guidance_interval: Lowest and highest noise level with guidance, from 0 to 1; else the model's own.
        scheduler: Sampler by name: ddpm, ddim, dpm++, dpm++sde, unipc, euler, flow; else the model's own.
        batch_size: Videos sampled together; it may change them by about 1e-5.
        device: auto, cpu, cuda or mps.
        dtype: float32, bfloat16 or float16.
        model_class: Your own class that the model is of, as module:Class.
    """
    from ..evaluation.shapes import evaluate_shapes
    from ..families.devices import choose_device, choose_dtype
    from ..families.imports import import_class
    from ..families.opening import model_folder, open_model
    from ..generation import Settings

    if model_class:
        import_class(model_class)
    folder = model_folder(model)
    run = folder.parent if (folder.parent / "run.yaml").is_file() else None
    output_dir = output_dir or (run or Path()) / "evaluation"
    output_dir.mkdir(parents=True, exist_ok=True)  # what the disk refuses is known before the work
    family, pipe = open_model(folder, choose_device(device), choose_dtype(dtype))
    settings = Settings(
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        guidance_interval=guidance_interval,
        scheduler=scheduler,
        options=options.given(),
        seed=seed,
    )
    with progress("evaluating", "videos") as on_progress:
        result = evaluate_shapes(
            family,
            pipe,
            num_prompts,
            settings,
            split,
            max_objects,
            batch_size,
            model=str(folder),
            on_progress=on_progress,
            world=world or world_of(run),
            wording=wording,
        )
    written = result.save(output_dir)
    if report:
        written.append(write_page(output_dir / "report.html", result, run))
    for line in table(result):
        say(line)
    for path in written:
        say(path)
    say(f"accuracy: {result.accuracy.rate:.1%}")


def world_of(run: Path | None) -> Literal["small", "full", "moon"]:
    """The demo world that a run was trained on."""
    from ..config import RunConfig

    shapes = RunConfig.load(run / "run.yaml").data.shapes if run else None
    return shapes.world if shapes else "small"
