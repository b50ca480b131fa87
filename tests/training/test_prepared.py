"""Training on prepared data: the same run as on the clips, with neither codec nor text encoder in memory."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from text2video import video
from text2video.config import RunConfig
from text2video.errors import DataError, UsageError
from text2video.families.opening import family_of, load
from text2video.generation import Settings, generate
from text2video.preparing.prepare import prepare
from text2video.training.build import shape_rules
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
    assert trainer.pipe.vae is None
    assert trainer.pipe.text_encoder is None
    trainer.run()
    assert trainer.pipe.vae is None
    # a batch and one clip, several threads and one: the last bits of what is encoded may differ
    live, ahead = (np.array(losses(tmp_path / run), float) for run in ("clips", "tensors"))
    np.testing.assert_allclose(ahead, live, rtol=1e-5)
    assert len(losses(tmp_path / "clips")) >= 6

    videos = []
    for run in ("clips", "tensors"):
        pipe = load(tmp_path / run / "final", device="cpu")
        assert (type(pipe.vae).__name__, type(pipe.text_encoder).__name__) == ("AutoencoderKL", "CLIPTextModel")
        (result,) = generate(family_of(tmp_path / run / "final"), pipe, ["sks a red circle"], Settings(seed=1))
        videos.append(result.frames)
    assert abs(videos[0].astype(int) - videos[1]).max() <= 1


def test_a_run_that_does_not_fit_is_refused_with_what_differs(latent, tmp_path, codecs):
    out = tmp_path / "out"
    prepare(latent("clips"), out)
    with pytest.raises(UsageError, match=r"num_frames is 8, prepared was 4; .*caption_prefix is 'sks'"):
        Trainer(latent("run", "--num_frames", "8", load_tensors=str(out), caption_prefix="sks"))
    other = latent("run", load_tensors=str(out)).model_dump(mode="json")
    other["model"]["codec"] = None
    with pytest.raises(UsageError, match="codec is 'pixels', prepared was 'AutoencoderKL'"):
        Trainer(RunConfig.model_validate(other))
    with pytest.raises(UsageError, match="one view of each clip"):
        RunConfig.build({"data": {"load_tensors": str(out), "augment": True}})
    assert not (tmp_path / "run").exists()


def test_a_run_resumes_and_another_begins_from_its_model(latent, tmp_path):
    """On prepared data throughout, with previews, and with the model's folder as the source of its parts."""
    flags = ("--sample_steps", "6", "--num_samples", "1")
    out = str(tmp_path / "out")
    prepare(latent("clips"), out)
    train(latent("run", "--max_steps", "4", load_tensors=out))
    shutil.rmtree(tmp_path / "run" / "final")
    train(latent("run", *flags, load_tensors=out), resume=True)
    assert {step for step, loss, _ in losses(tmp_path / "run") if loss} == {1, 2, 3, 4, 5, 6}
    assert len(list((tmp_path / "run" / "samples" / "000006").glob("*.mp4"))) == 1

    config = latent("next", "--max_steps", "1", load_tensors=out)
    config.train.init_from = tmp_path / "run"
    trainer = Trainer(config)
    assert trainer.pipe.vae is None
    trainer.run()
    assert type(load(tmp_path / "next" / "final", device="cpu").vae).__name__ == "AutoencoderKL"


def test_pixels_and_the_built_in_text_encoder_train_the_same(tiny, clips, tmp_path):
    def make(name: str, **data: object) -> RunConfig:
        values = tiny("--max_steps", "3", output_dir=tmp_path / name).model_dump(mode="json")
        values["data"] |= {"shapes": None, **data}
        return RunConfig.model_validate(values)

    config = make("clips", data_dir=str(clips))
    prepare(config, tmp_path / "out")
    train(config)
    train(make("tensors", load_tensors=str(tmp_path / "out"), num_workers=1))
    assert losses(tmp_path / "clips") == losses(tmp_path / "tensors")


BUCKETS = ["4x16x24", "4x24x16", "2x16x16"]


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Wide, high and short clips, and one that is smaller than every bucket."""
    data, drawn = tmp_path / "mixed", np.random.default_rng(0)
    (data / "videos").mkdir(parents=True)
    (data / "captions").mkdir()
    shapes = [(6, 24, 40), (6, 40, 24), (2, 32, 32)]
    for number, (frames, height, width) in enumerate([*shapes * 5, (6, 8, 8)]):
        coarse = drawn.integers(0, 255, (frames, height // 8, width // 8, 3), np.uint8)
        video.write(data / "videos" / f"{number:02d}.mp4", coarse.repeat(8, 1).repeat(8, 2), 8)
        (data / "captions" / f"{number:02d}.txt").write_text(f"clip number {number}", encoding="utf-8")
    return data


@pytest.mark.parametrize("buckets", [BUCKETS, ["auto"]])
def test_clips_in_buckets_train_the_same(latent, mixed, tmp_path, buckets):
    config = latent("clips", "--max_steps", "4", data_dir=str(mixed), buckets=buckets)
    cache = prepare(config, tmp_path / "out", rules=shape_rules(config, None))
    train(config)
    prepared = {"load_tensors": str(tmp_path / "out"), "data_dir": None}
    train(latent("tensors", "--max_steps", "4", buckets=buckets, **prepared))
    live, ahead = (np.array(losses(tmp_path / run), float) for run in ("clips", "tensors"))
    np.testing.assert_allclose(ahead, live, rtol=1e-5)
    shapes = Counter(entry.shape for (kind, _, _), entry in cache.entries.items() if kind == "video")
    ((small, reason),) = cache.left_out
    assert small.endswith("15.mp4")
    assert "cover no bucket" in reason
    if buckets == BUCKETS:
        assert shapes == {(4, 16, 24): 5, (4, 24, 16): 5, (2, 16, 16): 5}


def test_a_changed_set_of_buckets_is_said_and_costs_the_clips_that_it_moves(latent, mixed, tmp_path, caplog):
    out = tmp_path / "out"
    before = prepare(latent("one", data_dir=str(mixed), buckets=BUCKETS), out).entries
    with pytest.raises(UsageError, match=r"buckets is \['4x16x24', '4x24x16'\], prepared was \['4x16x24',"):
        Trainer(latent("run", load_tensors=str(out), buckets=BUCKETS[:2]))
    with pytest.raises(UsageError, match=r"buckets is \[\], prepared was \['4x16x24', '4x24x16', '2x16x16'\]\."):
        Trainer(latent("run", load_tensors=str(out)))
    caplog.set_level("INFO", "text2video")
    after = prepare(latent("two", data_dir=str(mixed), buckets=BUCKETS[:2]), out).entries
    new = [entry.shape for key, entry in after.items() if key not in before]
    assert len(new) == 5  # the short ones; the others stay where they were
    assert "videos that get another shape encoded anew" in caplog.text
    assert set(new) <= {(4, 16, 24), (4, 24, 16)}


def test_processes_that_prepare_buckets_equal_one(latent, mixed, tmp_path):
    config = latent("one", data_dir=str(mixed), buckets=["auto"])
    one, two = (prepare(config, tmp_path / f"by{count}", num_gpus=count).entries for count in (None, 2))
    assert {key: entry.sha256 for key, entry in one.items()} == {key: entry.sha256 for key, entry in two.items()}


def test_each_stage_trains_on_data_prepared_for_it(latent, tmp_path):
    values = latent("run").model_dump(mode="json")
    values["data"] |= {"data_dir": None}
    values["train"]["max_steps"] = None
    values["stages"] = []
    for size in (16, 32):
        prepare(latent("clips", "--frame_size", str(size)), tmp_path / str(size))
        values["stages"].append({"max_steps": 2, "frame_size": size, "load_tensors": str(tmp_path / str(size))})
    config = RunConfig.model_validate(values)
    train(config)
    steps = [step for step, loss, _ in losses(tmp_path / "run") if loss is not None]
    assert steps == [1, 2, 3, 4]
    assert load(tmp_path / "run" / "final", device="cpu").config["height"] == 32
    values["stages"][1]["load_tensors"] = str(tmp_path / "nowhere")
    values["output_dir"] = str(tmp_path / "other")
    with pytest.raises(DataError, match="nowhere"):
        train(RunConfig.model_validate(values))
    assert not (tmp_path / "other").exists()
