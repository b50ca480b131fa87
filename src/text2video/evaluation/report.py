"""One HTML page that shows a run: how often its videos are right, the videos themselves, its curves, time and settings.

The page asks nothing of any other file or server: videos are inside it as MP4, curves as SVG. `assets/report.html` is
its frame.
"""

import base64
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from string import Template

import numpy as np

from .. import video
from ..config import RunConfig
from ..data.clips import write_file
from ..errors import Text2VideoError
from ..sections import GANS
from .curves import Points, chart, read_metrics, smooth
from .metrics import MAIN
from .shapes import ShapesResult

TEMPLATE = Path(__file__).parents[1] / "assets" / "report.html"
_LARGE = 160  # small videos are enlarged to about this many pixels, so that their pixels can be seen
_PACKAGES = ("text2video", "torch", "diffusers", "accelerate", "transformers", "numpy", "av")


def write_report(
    path: Path,
    result: ShapesResult,
    run: Path | None = None,
    clips: Sequence[tuple[np.ndarray, str]] = (),
    stages: Mapping[str, float] | None = None,
    command: str = "",
) -> Path:
    """Write the page; what is not known is left out of it.

    Args:
        result: of the evaluation.
        run: the folder whose `run.yaml` and `metrics.jsonl` are shown.
        clips: real training clips: uint8 `[T, H, W, 3]` and caption.
        stages: name -> seconds of what was done.
        command: that made the page.

    Raises:
        Text2VideoError: it cannot be written.
    """
    config = RunConfig.load(run / "run.yaml") if run and (run / "run.yaml").is_file() else None
    metrics = read_metrics(run / "metrics.jsonl") if run else {}
    times = dict(stages or {})
    times |= {"all together": sum(times.values())} if len(times) > 1 else {}
    accuracy, fps = result.accuracy, result.settings["fps"]
    unseen = "a combination that no training clip has" if result.split == "heldout" else "a trained combination"
    seeds = f"{result.rows[0].seed} to {result.rows[-1].seed}"
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        headline=f"{accuracy.rate:.1%}",
        interval=f"95% interval {accuracy.low:.1%} to {accuracy.high:.1%}",
        summary=f"{accuracy.successes} of {accuracy.n} videos show the colour, the shape and the motion that their "
        f"prompt asks for, all three. Each prompt names {unseen}. Seeds {seeds}, each once, none selected.",
        accuracy=_accuracy(result),
        shown=f"The first {len(result.shown)} of {len(result.rows)}, not selected.",
        generated="".join(
            _card(one.frames, one.prompt, fps, _marks(row.checks))
            for one, row in zip(result.shown, result.rows, strict=False)
        ),
        real="".join(_card(frames, caption, fps) for frames, caption in clips),
        hide_real="" if clips else "hidden",
        curves=_curves(metrics),
        hide_curves="" if metrics.get("train/loss") else "hidden",
        facts=_pairs(_facts(result, config, metrics)),
        times=_pairs({name: clock(seconds) for name, seconds in times.items()}),
        hide_times="" if times else "hidden",
        machine=_pairs(machine() | ({"command": command} if command else {})),
        config=escape(config.to_yaml() if config else ""),
        hide_config="" if config else "hidden",
    )
    try:
        write_file(path, page)
    except OSError as error:
        raise Text2VideoError(f"The report {path} could not be written: {error.strerror or error}.") from None
    return path


# --- the parts of the page --------------------------------------------------------------------------------------


def _accuracy(result: ShapesResult) -> str:
    rows = []
    for name, rate in result.rates.items():
        control = result.control[name]
        expected = f"{result.chance[name]:.1%}" if name in result.chance else ""
        rows.append(
            f'<tr{" class=main" if name == MAIN else ""}><th scope="row">{name}</th>'
            f"<td>{rate.successes} of {rate.n}</td><td>{rate.rate:.1%}</td>"
            f'<td class="wide">{_bar(rate.rate, rate.low, rate.high)}</td><td>{rate.low:.1%} to {rate.high:.1%}</td>'
            f"<td>{control.rate:.1%}</td><td>{expected}</td></tr>"
        )
    return "".join(rows)


def _bar(rate: float, low: float, high: float) -> str:
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="ground" width="100" height="10"/><rect class="share" width="{100 * rate:.2f}" height="10"/>'
        f'<rect class="range" x="{100 * low:.2f}" y="4" width="{100 * (high - low):.2f}" height="2"/></svg>'
    )


def _card(frames: np.ndarray, text: str, fps: float, marks: str = "") -> str:
    return (
        f'<figure><video src="{data_uri(frames, fps)}" autoplay muted loop playsinline aria-label="{escape(text)}">'
        f"</video><figcaption>{escape(text)}{marks}</figcaption></figure>"
    )


def _marks(checks: Mapping[str, bool]) -> str:
    items = (
        f'<li class="{"right" if right else "wrong"}"><span aria-hidden="true">{"✓" if right else "✗"}</span> '
        f'{escape(name)}<span class="spoken"> {"right" if right else "wrong"}</span></li>'
        for name, right in checks.items()
    )
    return f'<ul class="marks">{"".join(items)}</ul>'


def data_uri(frames: np.ndarray, fps: float) -> str:
    """uint8 `[T, H, W, 3]` as an MP4 inside an address; a small video is enlarged by a whole factor, pixels kept."""
    factor = max(1, _LARGE // min(frames.shape[1:3]))
    factor += factor % 2 if factor > 1 else 0  # an even size is one that every browser plays
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        video.write(path, frames.repeat(factor, 1).repeat(factor, 2), fps)
        return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def _curves(metrics: Mapping[str, Points]) -> str:
    losses = {"training (running mean)": smooth(metrics.get("train/loss", []))}
    if metrics.get("val/loss"):
        losses["validation"] = metrics["val/loss"]
    return chart("Loss", losses, log=True) + chart("Learning rate", {"learning rate": metrics.get("lr", [])})


def _pairs(facts: Mapping[str, str]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())


def _facts(result: ShapesResult, config: RunConfig | None, metrics: Mapping[str, Points]) -> dict[str, str]:
    used, total = result.settings, sum(result.parameters.values())
    parts = ", ".join(f"{name} {count / 1e6:.2f}M" for name, count in result.parameters.items())
    facts = {"model": result.model, "parameters": f"{total / 1e6:.2f}M ({parts})"}
    if config and metrics.get("train/loss"):
        last, ends = round(metrics["train/loss"][-1][0]), [0.0]
        spent = clips = 0.0
        times, speeds = metrics.get("seconds_per_step", []), metrics.get("clips_per_second", [])
        for (step, seconds), (_, speed) in zip(times, speeds, strict=False):
            spent += (step - ends[-1]) * seconds
            clips += (step - ends[-1]) * seconds * speed  # stages may differ in the clips of a step
            ends.append(step)
        timed = f", {clips:,.0f} clips in {clock(spent)}, {clips / spent:.1f} clips a second" if spent else ""
        facts["training"] = f"{last:,} steps{timed}"
        facts["objective"] = (
            "against a discriminator"
            if config.model.kind in GANS
            else f"{config.diffusion.prediction} prediction, {config.diffusion.schedule} schedule, "
            f"{config.diffusion.timesteps} timesteps"
        )
    for key, name in (("memory/ram_gb", "memory"), ("memory/gpu_gb", "GPU memory")):
        if values := metrics.get(key):
            facts[name] = f"{max(value for _, value in values):.2f} GB at most while training"
    facts["videos"] = (
        f"{used['num_frames']} frames of {used['width']}x{used['height']} pixels, {used['fps']:g} a second"
    )
    steps = used["num_inference_steps"]
    how = f"{used['scheduler']}, {steps} steps" if used["scheduler"] else "tokens one after another"
    facts["sampling"] = "one step" if steps == 1 else f"{how}, guidance {used['guidance_scale']:g}"
    facts["evaluation"] = (
        f"{len(result.rows)} videos in {clock(result.seconds)}, {result.seconds / len(result.rows):.2f} s a video"
    )
    return facts


def machine() -> dict[str, str]:
    """What computes here: processor, GPU, system and versions."""
    import torch

    name = platform.processor() or platform.machine()
    table = Path("/proc/cpuinfo")  # on Linux, where platform knows the architecture only
    if table.is_file():
        lines = table.read_text(encoding="utf-8", errors="ignore").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    facts = {"processor": f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used"}
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    versions = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # run from a checkout that is not installed
            continue
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return facts | {"system": platform.platform(), "versions": ", ".join(versions), "made": made}


def clock(seconds: float) -> str:
    """Seconds in words: `7.3 s`, `9 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
