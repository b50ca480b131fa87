"""A run whose weights are dealt out among processes is the run of one process, in what it learns and what it writes."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from two_processes import run_in_two

from text2video.config import RunConfig
from text2video.errors import UsageError
from text2video.families.opening import load
from text2video.training.trainer import train

STEPS = 5

# What one process does of a run in two: each of the runs {name: flags}, one after the other.
SHARED = """
import json, sys
import torch
from text2video.config import RunConfig
from text2video.training import trainer

def train(name):
    flags = [*json.loads(sys.argv[2])[name], "--output_dir", f"{sys.argv[1]}/{name}"]
    run = trainer.Trainer(RunConfig.build({}, flags))
    held = [(p.to_local().numel(), p.numel()) for p in run.ema.parameters.values()]
    held = sum(own for own, _ in held) / sum(whole for _, whole in held)
    assert 0.49 < held < 0.52, held
    run.run()

step = trainer.Trainer.step

def breaks_off(self, number, stream):
    if number == 3:
        raise SystemExit
    return step(self, number, stream)

for name in json.loads(sys.argv[2]):
    if name == "broken":
        trainer.Trainer.step = breaks_off
        try:
            train(name)
        except SystemExit:
            trainer.Trainer.step = step
    train(name)
"""


@pytest.fixture(scope="module")
def flags(tiny_flags):
    """Runs by name: of a transformer with AdamW, and of the tiny U-Net with Muon, each as one process has it."""
    own = ("--clips", "--num_frames", "--frame_size", "--text_width", "--text_layers", "--batch_size", "--val_fraction")
    own += ("--val_samples", "--learning_rate", "--num_inference_steps", "--scheduler", "--num_workers", "--ema_decay")
    pairs = [pair for pair in pairwise(tiny_flags) if pair[0] in own]
    transformer = [
        *(token for pair in pairs for token in pair),
        *("--kind", "transformer", "--patch_size", "1", "4", "4", "--device", "cpu", "--no_wandb", "--no_tensorboard"),
        *("--model_args", "{num_layers: 2, num_attention_heads: 2, attention_head_dim: 16}"),
        *("--gradient_checkpointing", "--save_steps", "2", "--eval_steps", "5", "--sample_steps", "5"),
        *("--max_steps", str(STEPS)),
    ]
    return {
        "unbroken": transformer,
        "half": [*transformer, "--mixed_precision", "bf16", "--max_steps", "2", "--sample_steps", "0"],
        "muon": [*tiny_flags, "--max_steps", "3", "--optimizer", "muon"],
    }


@pytest.fixture(scope="module")
def runs(flags, tmp_path_factory):
    """The folders of the runs by one process and by two, and beside them of runs that were gone on with."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for name, own in flags.items():
        train(RunConfig.build({}, [*own, "--output_dir", str(one / name)]))
    begun(one / "unbroken", two / "begun by one")
    both = flags | {"broken": flags["unbroken"], "begun by one": flags["unbroken"]}
    shared = ("--batch_size", "1", "--gradient_accumulation_steps", "2", "--sharding", "full")
    run_in_two(two, [json.dumps({name: [*own, *shared] for name, own in both.items()})], SHARED)
    begun(two / "unbroken", one / "begun by two")
    train(RunConfig.build({}, [*flags["unbroken"], "--output_dir", str(one / "begun by two")]), resume=True)
    return one, two


def begun(run: Path, copy: Path) -> None:
    """A copy of a run as it stood after its second step."""
    shutil.copytree(run / "checkpoints" / "000002", copy / "checkpoints" / "000002")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= 2))


def rows(run: Path, key: str) -> dict[int, float]:
    """step -> what was noted as `key`."""
    found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row[key] for row in found if key in row}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "transformer" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("name", ["unbroken", "muon", "begun by one"])
def test_equals_the_run_of_one_process(runs, name):
    one, two = runs
    alone = one / ("muon" if name == "muon" else "unbroken")
    for key, steps in (("train/loss", None), ("train/grad_norm", None), ("val/loss", 1)):
        expected, found = rows(alone, key), rows(two / name, key)
        assert expected.keys() == found.keys()
        assert len(found) == (steps or max(found))
        # Muon makes its updates in bf16, and of directions without a gradient from the last digits.
        limit = 1e-4 if (name, key) == ("muon", "train/grad_norm") else 1e-5
        assert all(abs(found[step] - value) < limit for step, value in expected.items()), key
    if name != "muon":
        for key, value in weights(alone).items():
            torch.testing.assert_close(weights(two / name)[key], value, rtol=0, atol=2e-5)


def test_broken_off_and_resumed_equals_unbroken_bit_for_bit(runs):
    _, two = runs
    assert rows(two / "broken", "train/loss") == rows(two / "unbroken", "train/loss")
    for name, value in weights(two / "unbroken").items():
        assert torch.equal(weights(two / "broken")[name], value), name


def test_one_process_goes_on_with_what_two_began(runs):
    one, _ = runs
    for step, loss in rows(one / "unbroken", "train/loss").items():
        assert abs(rows(one / "begun by two", "train/loss")[step] - loss) < 1e-5


def test_half_precision_stays_near(runs):
    """Shares are gathered in bf16, so that layers that one process has in float32 are rounded too."""
    one, two = runs
    for step, loss in rows(one / "half", "train/loss").items():
        assert abs(rows(two / "half", "train/loss")[step] - loss) < 0.01 * loss
    assert {value.dtype for value in weights(two / "half").values()} == {torch.float32}


def test_the_folder_is_that_of_one_process(runs):
    """Whole weights by plain names, previews by both processes, and nothing half written."""
    one, two = (sorted(path.relative_to(run) for path in run.rglob("*")) for run in (r / "unbroken" for r in runs))
    assert one == two
    pipe = load(runs[1] / "unbroken" / "final")
    assert type(pipe.transformer).__name__ == "VideoTransformer"
    saved = load_file(runs[1] / "unbroken" / "checkpoints" / "000005" / "weights.safetensors")
    assert {key: value.shape for key, value in saved.items()} == {
        f"{part}.{key}": value.shape
        for part in ("transformer", "text_encoder")
        for key, value in getattr(pipe, part).named_parameters()
    }


def test_alone_there_is_nothing_to_deal_out(runs, flags, tmp_path):
    one, _ = runs
    train(RunConfig.build({}, [*flags["muon"], "--sharding", "full", "--output_dir", str(tmp_path / "run")]))
    assert rows(tmp_path / "run", "train/loss") == rows(one / "muon", "train/loss")


@pytest.mark.parametrize(
    ("also", "named"),
    [
        (["--lora"], "lora"),
        (["--optimizer", "adamw8bit"], "adamw8bit"),
        (["--mixed_precision", "fp16"], "fp16"),
    ],
)
def test_what_it_cannot_be_with_is_said(tiny, also, named):
    with pytest.raises(UsageError, match=rf"sharding .*leave out .*{named}"):
        tiny("--sharding", "full", *also)


def test_a_plugin_of_the_launcher_is_refused(tiny, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match=r"plugin FSDP.*--sharding full"):
        train(tiny())


def test_an_autoencoder_is_trained_whole():
    config = RunConfig.build(
        {}, ["--kind", "vae", "--shapes", "--num_frames", "5", "--sharding", "full", "--device", "cpu"]
    )
    with pytest.raises(UsageError, match="leave out --sharding"):
        train(config)
