"""Fine-tuning that fits: prepared data, text encoders out of memory, and exact resume, each with the losses that the
plain run has."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from contract import opened, trained
from safetensors.torch import load_file
from test_modelscope import FLAGS, SMALL, modelscope

from text2video import video
from text2video.cli.main import run
from text2video.config import RunConfig
from text2video.data.cache import Cache
from text2video.errors import UsageError
from text2video.generation import generate
from text2video.training import trainer as module
from text2video.training.trainer import Trainer

RUN = (*FLAGS, "--caption_dropout", "0.5", "--val_fraction", "0.3")


def losses(output: Path, kinds: tuple[str, ...] = ("train/loss", "val/loss")) -> dict[tuple[int, str], float]:
    """(step, kind of loss) -> loss."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {(row["step"], kind): row[kind] for row in rows for kind in kinds if kind in row}


@pytest.fixture(scope="module")
def prepared(made, few_clips, tmp_path_factory) -> Path:
    """The clips as a ModelScope model's own parts encode them, evenly over each clip, first frames too."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "run.yaml").write_text(f"train: {{init_from: {made(modelscope)}, device: cpu}}\n", encoding="utf-8")
    line = ["data", "prepare", str(few_clips), str(folder / "out"), "--model", str(folder / "run.yaml"), *FLAGS]
    assert run([*line, "--save_image_latents"]) == 0
    return folder / "out"


def test_the_losses_are_those_of_the_clips_without_the_encoders(made, few_clips, prepared, tmp_path):
    flags = (*RUN, "--fps", "null", "--load_tensors", str(prepared), "--data_dir", "null")
    trained(made(modelscope), few_clips, tmp_path / "clips", *RUN, "--fps", "null")
    trained(made(modelscope), few_clips, tmp_path / "tensors", *flags)
    live = losses(tmp_path / "clips")
    assert len(live) == 3
    assert losses(tmp_path / "tensors") == pytest.approx(live, rel=1e-5)

    tokens = ["--model", str(made(modelscope)), *flags, "--device", "cpu", "--output_dir", str(tmp_path / "next")]
    trainer = Trainer(RunConfig.build({}, tokens))
    assert (trainer.pipe.vae, trainer.pipe.text_encoder) == (None, None)
    (items,) = next(iter(module.batches(trainer.data.train, trainer.sampler, 0)))
    assert items["image_mean"].shape == (1, 4, 1, 8, 8)
    final = opened(tmp_path / "tensors" / "final")[1]
    assert (type(final.vae).__name__, type(final.text_encoder).__name__) == ("AutoencoderKL", "CLIPTextModel")


def test_data_is_prepared_in_the_family_s_own_way(made, few_clips, prepared):
    family, pipe = opened(made(modelscope))
    torch.set_num_threads(1)  # as it encodes
    cache = Cache.open(prepared)
    for caption in ("", cache.clips[0].captions[0]):
        assert torch.equal(
            cache.embedding(caption)["encoder_hidden_states"],
            family.encode_text(pipe, {}, [caption])["encoder_hidden_states"][0],
        )
    with pytest.raises(UsageError, match=r"height is 32, prepared was 16"):
        trained(
            made(modelscope),
            few_clips,
            prepared.parent / "run",
            "--load_tensors",
            str(prepared),
            "--num_frames",
            "4",
            "--frame_size",
            "32",
            "--fps",
            "null",
            "--data_dir",
            "null",
        )


def test_the_text_encoder_leaves_memory_and_nothing_changes(made, few_clips, tmp_path, monkeypatch):
    """Its captions are embedded before the first step; previews bring it back for as long as they take."""
    flags = (*RUN, "--sample_steps", "2", "--num_samples", "1", "--num_inference_steps", "2")
    told, encoders = [], []
    whole = Trainer.loop
    monkeypatch.setattr(
        Trainer, "loop", lambda self, *args: (encoders.append(self.pipe.text_encoder), whole(self, *args))
    )
    trained(made(modelscope), few_clips, tmp_path / "without", *flags)
    monkeypatch.setattr(module, "embed_ahead", lambda *args: told.append(args))
    trained(made(modelscope), few_clips, tmp_path / "with", *flags)
    assert encoders[0] is None
    assert encoders[1] is not None
    captions = told[0][2]
    assert captions[0] == ""
    assert len(captions) > 4  # those of the clips that validate too
    assert losses(tmp_path / "without") == losses(tmp_path / "with")
    files = [next((tmp_path / run / "samples").rglob("*.mp4")) for run in ("without", "with")]
    assert np.array_equal(*(video.read(file).frames for file in files))


def test_captions_that_are_made_as_they_go_or_are_too_many_keep_the_text_encoder(
    made, few_clips, tmp_path, monkeypatch
):
    tokens = ["--model", str(made(modelscope)), "--data_dir", str(few_clips), *FLAGS, "--device", "cpu"]
    tokens += ["--output_dir", str(tmp_path)]
    assert Trainer(RunConfig.build({}, [*tokens, "--augment"])).pipe.text_encoder is not None
    monkeypatch.setattr("text2video.training.embedding.ROOM", 100)
    assert Trainer(RunConfig.build({}, tokens)).pipe.text_encoder is not None


@pytest.mark.parametrize("adapter", [("--lora", "--rank", "2", "--lora_dropout", "0.3"), ()], ids=["lora", "full"])
def test_a_resumed_run_is_the_unbroken_one(made, few_clips, tmp_path, adapter):
    flags = (*RUN, *adapter, "--max_steps", "4", "--lr_schedule", "constant", "--ema_decay", "0.9")
    trained(made(modelscope), few_clips, tmp_path / "whole", *flags)
    trained(made(modelscope), few_clips, tmp_path / "parts", *flags, "--max_steps", "2")
    config = RunConfig.load(tmp_path / "parts" / "run.yaml", ["--max_steps", "4"])
    module.train(config, resume=True)
    kinds = ("train/loss", "train/grad_norm")
    assert losses(tmp_path / "parts", kinds) == losses(tmp_path / "whole", kinds)
    assert len(losses(tmp_path / "whole", kinds)) == 8
    for file in ("weights", "ema"):
        one, other = (
            load_file(tmp_path / run / "checkpoints" / "000004" / f"{file}.safetensors") for run in ("whole", "parts")
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    (first,), (second,) = (
        generate(*opened(tmp_path / run / "final"), ["a red circle"], SMALL) for run in ("whole", "parts")
    )
    assert np.array_equal(first.frames, second.frames)
