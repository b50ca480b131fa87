"""What frozen weights take: fp8 layers, int8 and fp8 quantisation, blocks off the GPU; and what is refused."""

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from contract import opened, trained
from test_modelscope import FLAGS, SMALL, modelscope
from torch import nn

from text2video.config import RunConfig
from text2video.errors import UsageError
from text2video.families import lora
from text2video.families.base import Opening
from text2video.families.opening import open_model
from text2video.families.precision import LIBRARIES, cast_layers, quantizers
from text2video.generation import generate
from text2video.training.offload import BlockOffload
from text2video.training.starting import open_base
from text2video.training.trainer import Trainer

CPU = torch.device("cpu")
LORA = (*FLAGS, "--lora", "--rank", "2")


def config(folder: Path, clips: Path, output: Path, *flags: str) -> RunConfig:
    tokens = ["--model", str(folder), "--data_dir", str(clips), "--output_dir", str(output), *LORA, "--device", "cpu"]
    return RunConfig.build(
        {}, [*tokens, "--mixed_precision", "no", "--num_workers", "0", "--sample_steps", "0", *flags]
    )


def transformer() -> nn.Module:
    """A tiny Wan transformer, with adapters that do something."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=3,
        rope_max_seq_len=32,
    )
    lora.add({"transformer": model}, ("to_q", "to_v"), rank=2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    return model.train()


def gradients(model: nn.Module) -> list[torch.Tensor]:
    """Of the adapters, after one pass forward and back; they are set back."""
    torch.manual_seed(1)
    video, text = torch.randn(2, 4, 2, 8, 8), torch.randn(2, 12, 16)
    model(video, torch.tensor([5, 600]), text, return_dict=False)[0].square().mean().backward()
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]
    model.zero_grad()
    return found


class Poisoned(BlockOffload):
    """Weights that are not on the device are no numbers: any use of them shows."""

    def evict(self, number: int) -> None:
        super().evict(number)
        for value, _ in self.home[number]:
            value.data = torch.full_like(value.data, torch.nan)


def test_blocks_are_there_when_they_compute_and_only_then():
    model = transformer()
    whole = gradients(model)
    offload = Poisoned(model, CPU)
    assert all(p.isnan().all() for p in model.blocks.parameters() if not p.requires_grad)
    for _ in range(2):
        for one, other in zip(gradients(model), whole, strict=True):
            torch.testing.assert_close(one, other)
        assert len(offload.fetched) <= 2
    with torch.no_grad():
        video = model.eval()(torch.randn(1, 4, 2, 8, 8), torch.tensor([5]), torch.randn(1, 12, 16)).sample
    assert video.isfinite().all()


@pytest.mark.gpu
def test_blocks_come_to_the_gpu_one_by_one():
    model = transformer()
    whole = gradients(model)
    offload = BlockOffload(model, torch.device("cuda"))
    torch.manual_seed(1)
    video, text = torch.randn(2, 4, 2, 8, 8).cuda(), torch.randn(2, 12, 16).cuda()
    for _ in range(2):
        model(video, torch.tensor([5, 600]).cuda(), text, return_dict=False)[0].square().mean().backward()
        found = [parameter.grad.cpu() for parameter in model.parameters() if parameter.requires_grad]
        for one, other in zip(found, whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)
        model.zero_grad()
        assert sum(block.ffn.net[2].weight.is_cuda for block in offload.blocks) <= 2


def test_a_model_without_a_chain_of_blocks_is_refused(made):
    with pytest.raises(UsageError, match="chain of blocks, and this one is a UNet3DConditionModel"):
        BlockOffload(opened(made(modelscope))[1].unet, CPU)


def test_layers_hold_fp8_and_gradients_stay_about_the_same():
    whole = gradients(transformer())
    model = transformer()
    cast_layers([model], torch.float32)
    held = {
        parameter.dtype for name, parameter in model.blocks.named_parameters() if name.endswith("base_layer.weight")
    }
    assert held == {torch.float8_e4m3fn}
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters() if parameter.requires_grad)
    for one, other in zip(gradients(model), whole, strict=True):
        assert torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99
    model.enable_gradient_checkpointing()
    assert all(torch.isfinite(one).all() for one in gradients(model))


def test_a_run_with_layerwise_casting_learns_and_generates(made, few_clips, tmp_path):
    flags = (*LORA, "--layerwise_casting", "--learning_rate", "0.5")
    final = trained(made(modelscope), few_clips, tmp_path / "run", *flags)
    family, pipe = open_model(final, CPU, torch.float32, Opening(layerwise_casting=True))
    assert torch.float8_e4m3fn in {parameter.dtype for parameter in pipe.unet.parameters()}
    (small,) = generate(family, pipe, ["a red circle"], SMALL)
    (whole,) = generate(*opened(final), ["a red circle"], SMALL)
    (base,) = generate(*opened(made(modelscope)), ["a red circle"], SMALL)
    far = np.abs(base.frames.astype(int) - whole.frames).mean()
    assert np.abs(small.frames.astype(int) - whole.frames).mean() < far / 2


def test_the_frozen_base_is_bf16_and_the_adapter_float32(made, few_clips, tmp_path):
    flags = ("--mixed_precision", "bf16", "--max_steps", "1", "--eval_steps", "1", "--val_fraction", "0.3")
    trainer = Trainer(
        config(made(modelscope), few_clips, tmp_path / "run", *flags, "--gradient_checkpointing", "false")
    )
    kinds = {p.requires_grad: p.dtype for p in trainer.pipe.unet.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    trainer.run()
    assert np.isfinite(trainer.best_loss)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_run_on_a_quantised_base_learns(made, few_clips, tmp_path, kind):
    pytest.importorskip("torchao")
    trainer = Trainer(config(made(modelscope), few_clips, tmp_path / "seen", "--quantize", kind))
    weight = trainer.pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.get_base_layer().weight
    assert type(weight).__name__ == {"int8": "Int8Tensor", "fp8": "Float8Tensor"}[kind]
    flags = (*LORA, "--quantize", kind, "--learning_rate", "0.5")
    final = trained(made(modelscope), few_clips, tmp_path / "run", *flags)
    (first,) = generate(*opened(made(modelscope)), ["a red circle"], SMALL)
    (then,) = generate(*opened(final), ["a red circle"], SMALL)
    assert not np.array_equal(first.frames, then.frames)


@pytest.mark.gpu
def test_a_run_on_an_nf4_base_learns(made, few_clips, tmp_path):
    pytest.importorskip("bitsandbytes")
    trained(made(modelscope), few_clips, tmp_path / "run", *LORA, "--quantize", "nf4", "--device", "cuda")


def test_what_cannot_be_is_said_before_anything_is_opened(made, few_clips, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"memory\.quantize is for weights that stay as they are.*add --lora"):
        RunConfig.build({}, ["--model", str(made(modelscope)), "--quantize", "int8"])
    with pytest.raises(UsageError, match=r"memory\.layerwise_casting in another: leave out one"):
        config(made(modelscope), few_clips, tmp_path, "--quantize", "int8", "--layerwise_casting")
    with pytest.raises(UsageError, match="--block_offload keeps weights out of a GPU's memory"):
        open_base(config(made(modelscope), few_clips, tmp_path, "--block_offload"))
    monkeypatch.setattr("text2video.families.precision.find_spec", lambda name: None)
    for kind, library in LIBRARIES.items():
        with pytest.raises(UsageError, match=f"needs {library}, which is not installed: pip install {library}"):
            quantizers(kind, ["unet"], torch.float32)


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_memory_that_tensors_leave_is_taken_by_the_next_ones():
    faults = (
        "import resource, torch\n"
        "from text2video.families.devices import keep_freed_memory\n"
        "def faults(before=0):\n"
        "    for turn in range(5):\n"
        "        torch.ones(2**24)\n"  # 64 MiB, 16,384 pages
        "        before = before or resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "torch.set_num_threads(1)\n"
        "given_back = faults()\n"
        "keep_freed_memory()\n"
        "print(given_back, min(faults() for _ in range(5)))\n"
    )
    done = subprocess.run([sys.executable, "-c", faults], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert kept < given_back / 10, (given_back, kept)
