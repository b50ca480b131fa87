"""A pretrained model is planned from its folder's configurations alone, by its own family's code."""

import shutil

import pytest
import torch
from test_modelscope import modelscope

from text2video.config import RunConfig
from text2video.planner.facts import facts_of
from text2video.planner.plan import plan
from text2video.planner.propose import propose

FLAGS = ["--num_frames", "4", "--frame_size", "32", "--fps", "null", "--val_fraction", "0", "--device", "cpu"]


def test_an_adapter_has_no_optimiser_states_for_its_base(made):
    full, adapter = (
        plan(RunConfig.build({}, ["--model", str(made(modelscope)), *FLAGS, *flags]), on_gpu=True, clips=50)
        for flags in ((), ("--preset", "lora", "--rank", "4"))
    )
    assert full.memory["optimiser"] == pytest.approx(2 * full.memory["weights"], rel=0.01)
    assert adapter.memory["optimiser"] < 0.1 * full.memory["optimiser"]
    assert adapter.memory["weights"] < 0.6 * full.memory["weights"]  # in bfloat16
    assert adapter.disk["final model"] < 0.1 * full.disk["final model"]
    assert adapter.steps == full.steps == 5000
    assert adapter.phases["decoding of previews"] > 0


def test_prepared_tensors_leave_the_encoders_out_of_memory(made, tmp_path):
    flags = ["--model", str(made(modelscope)), *FLAGS, "--sample_steps", "0"]
    with_them, without = (
        plan(RunConfig.build({}, [*flags, *more]), on_gpu=True) for more in ((), ("--load_tensors", str(tmp_path)))
    )
    assert "frozen parts" not in without.memory
    assert without.phases["training step"] + with_them.memory["frozen parts"] == with_them.phases["training step"]


def test_no_weights_are_read_and_nothing_random_is_drawn(made, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(made(modelscope), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    state = torch.get_rng_state()
    facts = facts_of(RunConfig.build({}, ["--model", str(folder), "--preset", "lora", *FLAGS]))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(tensor.is_meta for tensor in facts.tensors)
    assert facts.latents == (4, 4, 16, 16)


def test_a_full_fine_tune_that_does_not_fit_becomes_an_adapter(made):
    config = RunConfig.build({}, ["--model", str(made(modelscope)), *FLAGS, "--sample_steps", "0"])
    wanted = RunConfig.build(config.model_dump(mode="json"), ["--lora"])
    found = propose(config, 1.0001 * plan(wanted, on_gpu=True).peak, on_gpu=True)
    assert found.fits
    assert found.config.lora or found.config.data.load_tensors
