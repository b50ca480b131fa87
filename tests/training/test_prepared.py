"""Training on prepared data: the same run as on the clips, with neither codec nor text encoder in memory."""

import json
from pathlib import Path

import pytest
import torch

from text2video.config import RunConfig
from text2video.errors import UsageError
from text2video.families.base import family_of, load
from text2video.generation import Settings, generate
from text2video.preparing.prepare import prepare
from text2video.training.trainer import Trainer, train


@pytest.fixture
def latent(tiny, clips, codecs, tiny_clip, tmp_path):
    """A function that makes a tiny latent run on clips, with a frozen text encoder."""

    def make(name: str, *flags: str, **changes: object) -> RunConfig:
        values = tiny(*flags, output_dir=tmp_path / name).model_dump(mode="json")
        values["data"] |= {"shapes": None, "data_dir": str(clips), "caption_dropout": 0.5, **changes}
        values["model"] |= {"codec": str(codecs())}
        values["text"] |= {"text_encoder": str(tiny_clip)}
        return RunConfig.model_validate(values)

    return make


def losses(run: Path) -> list[tuple]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row.get("train/loss"), row.get("val/loss")) for row in rows]


def test_the_losses_are_those_of_the_clips_without_the_encoders(latent, tmp_path):
    config = latent("clips", caption_prefix="sks")
    prepare(config, tmp_path / "out")
    train(config)
    trainer = Trainer(latent("tensors", load_tensors=str(tmp_path / "out"), data_dir=None, caption_prefix="sks"))
    for pipe in (trainer.pipe, trainer.averaged):
        assert pipe.vae is None
        assert pipe.text_encoder is None
    trainer.run()
    assert trainer.pipe.vae is None
    assert losses(tmp_path / "clips") == losses(tmp_path / "tensors")
    assert len(losses(tmp_path / "clips")) >= 6

    videos = []
    for run in ("clips", "tensors"):
        pipe = load(tmp_path / run / "final", device="cpu")
        assert (type(pipe.vae).__name__, type(pipe.text_encoder).__name__) == ("AutoencoderKL", "CLIPTextModel")
        (result,) = generate(family_of(tmp_path / run / "final"), pipe, ["sks a red circle"], Settings(seed=1))
        videos.append(result.frames)
    assert (videos[0] == videos[1]).all()
