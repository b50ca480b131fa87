"""What a benchmark of short runs does once: a run to its end, and how often its model is right. Stopped, both go on."""

import json
from pathlib import Path

from text2video.config import RunConfig
from text2video.evaluation.shapes import evaluate_shapes
from text2video.families.devices import choose_device
from text2video.families.opening import open_model
from text2video.training.trainer import train


def finished(config: RunConfig) -> Path:
    """The folder of a run, which goes on where it stood."""
    if not (config.output_dir / "final").is_dir():
        print(config.output_dir, flush=True)
        train(config, resume=True)
    return config.output_dir


def rates(run: Path, prompts: int) -> dict[str, float]:
    """Attribute -> how often a finished run's model is right in it, on held-out prompts."""
    file = run / "accuracy.json"
    if not file.is_file():
        family, pipe = open_model(run / "final", choose_device("auto"))
        result = evaluate_shapes(family, pipe, prompts, batch_size=16, model=str(run))
        result.save(run / "evaluation")
        file.write_text(json.dumps({name: rate.rate for name, rate in result.rates.items()}), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))
