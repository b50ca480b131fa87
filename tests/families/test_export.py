"""Adapters for other tools: each form does what the adapter does, and what matches or changes nothing is refused."""

import shutil

import numpy as np
import pytest
import torch
from contract import opened, trained
from safetensors.torch import load_file, save_file
from test_modelscope import FLAGS, SMALL, modelscope

from text2video.errors import ModelError, UsageError
from text2video.families import lora
from text2video.families.export import export
from text2video.generation import generate


@pytest.fixture(scope="module")
def adapter(made, few_clips, tmp_path_factory):
    """The final folder of a run that trained an adapter whose alpha is not its rank."""
    output = tmp_path_factory.mktemp("adapter") / "run"
    own = ("--lora", "--rank", "4", "--alpha", "6", "--rslora", "--learning_rate", "0.1")
    return trained(made(modelscope), few_clips, output, *own, *FLAGS)


def frames(path, **opening):
    return next(generate(*opened(path, **opening), ["a red circle"], SMALL)).frames


def test_merged_is_a_whole_model_with_the_frames_of_the_adapter(adapter, tmp_path):
    (result,) = export(adapter, "merged", tmp_path / "whole")
    assert result.difference < 1e-3
    assert np.abs(frames(tmp_path / "whole").astype(int) - frames(adapter)).max() <= 1
    index = tmp_path / "whole" / "unet" / "config.json"
    assert index.is_file()
    assert not any("base_layer" in key for key in load_file(index.with_name("diffusion_pytorch_model.safetensors")))


def test_the_diffusers_file_matches_every_layer(adapter, made, tmp_path):
    (result,) = export(adapter, "diffusers", tmp_path / "out")
    state = load_file(result.path)
    assert result.applied.matched == len(state) > 0
    assert result.applied.change > 0
    assert f"{len(state)} tensors match" in str(result)
    assert np.array_equal(frames(made(modelscope), lora=[result.path]), frames(adapter))


def test_two_adapters_add_up(adapter, made):
    family, once = opened(made(modelscope), lora=[adapter])
    _, twice = opened(made(modelscope), lora=[adapter, adapter])
    from text2video.families.export import deltas

    first, second = deltas(family.denoisers(once)), deltas(family.denoisers(twice))
    for name, delta in first.items():
        torch.testing.assert_close(second[name], 2 * delta)


def test_what_matches_or_changes_nothing_is_an_error(adapter, made, tmp_path):
    folder = made(modelscope)
    save_file(
        {"unet.nowhere.lora_A.weight": torch.ones(2, 2), "unet.nowhere.lora_B.weight": torch.ones(2, 2)},
        tmp_path / "a.safetensors",
    )
    with pytest.raises(ModelError, match="matches no layer"):
        opened(folder, lora=[tmp_path / "a.safetensors"])
    zero = {key: torch.zeros_like(value) for key, value in load_file(adapter / lora.FILE).items()}
    save_file(zero, tmp_path / "b.safetensors")
    with pytest.raises(ModelError, match="changes nothing"):
        opened(folder, lora=[tmp_path / "b.safetensors"])
    (tmp_path / "c.safetensors").write_bytes(b"none")
    for name in ("c", "missing"):
        with pytest.raises(ModelError, match="adapter"):
            opened(folder, lora=[tmp_path / f"{name}.safetensors"])
    with pytest.raises(UsageError, match="no names of its own"):
        export(adapter, "comfyui", tmp_path / "none")
    with pytest.raises(ModelError, match="is no adapter that a run trained"):
        export(folder, "merged", tmp_path / "none")
    with pytest.raises(UsageError, match="there already"):
        export(adapter, "merged", tmp_path)


def test_the_verbs_say_what_they_found(adapter, tmp_path, capsys):
    from text2video.cli.main import run

    assert run(["export", "--model", str(adapter), "--output_dir", str(tmp_path / "out")]) == 0
    assert "tensors match" in capsys.readouterr().out
    assert run(["models"]) == 0
    assert "ali-vilab/text-to-video-ms-1.7b" in capsys.readouterr().out
    assert run(["generate", "--model", "text-to-video-ms-1.7b", "--prompts", "a"]) == 1
    assert "hf download ali-vilab/text-to-video-ms-1.7b" in capsys.readouterr().err


def test_a_dora_adapter_merges_to_what_it_does(made, few_clips, tmp_path):
    final = trained(made(modelscope), few_clips, tmp_path / "run", "--lora", "--dora", "--rank", "4", *FLAGS)
    (result,) = export(final, "merged", tmp_path / "whole")
    assert result.difference < 1e-3
    assert np.abs(frames(tmp_path / "whole").astype(int) - frames(final)).max() <= 1
    (file,) = export(final, "diffusers", tmp_path / "file")
    assert file.difference < 1e-3


def test_what_is_not_right_leaves_nothing_behind(adapter, tmp_path, monkeypatch):
    numbers = iter(range(9))
    monkeypatch.setattr("text2video.families.export.deltas", lambda parts: {f"unet.{next(numbers)}": torch.ones(2, 2)})
    with pytest.raises(ModelError, match="is missing"):
        export(adapter, "diffusers", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_inside_a_model_s_folder_and_a_run_there_are_found(adapter, made, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(made(modelscope), folder)
    (folder / "own").mkdir()
    shutil.copy(adapter / lora.FILE, folder / "own")
    assert np.array_equal(frames(folder, lora=[folder / "own"]), frames(adapter))
    family, pipe = opened(folder)
    family.save(pipe, folder / "runs" / "saved")
    assert not (folder / "runs" / "saved" / "runs").exists()
    assert np.array_equal(frames(folder / "runs" / "saved"), frames(made(modelscope)))
