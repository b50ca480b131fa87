"""Our own transformer in a pipeline: trained, sampled, saved, adapted, like the U-Net."""

from pathlib import Path

import pytest
import torch
from contract import lands_on_x_0, opened
from diffusers import FirstBlockCacheConfig
from safetensors.torch import load_file

from text2video import VideoTransformer, load
from text2video.config import RunConfig
from text2video.diffusion.schedules import AutoFlow
from text2video.errors import UsageError
from text2video.families.native import NativeFamily
from text2video.models.transformer import SIZES
from text2video.planner.facts import facts_of
from text2video.training.trainer import train

FLAGS = [
    *("--clips", "12", "--num_frames", "4", "--frame_size", "16", "--kind", "transformer", "--text_width", "32"),
    *("--model_args", '{"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}', "--text_layers", "1"),
    *("--time_attention", "factorised", "--schedule", "flow", "--prediction", "flow", "--shift", "auto"),
    *("--timesteps", "logit_normal", "--batch_size", "4", "--val_fraction", "0.25", "--val_samples", "4"),
    *("--learning_rate", "1e-3", "--max_steps", "4", "--save_steps", "2", "--num_inference_steps", "3"),
    *("--sample_steps", "0", "--num_workers", "0", "--no_wandb", "--no_tensorboard", "--ema_decay", "0.5"),
    *("--device", "cpu", "--gradient_checkpointing"),
]


@pytest.fixture(scope="module")
def transformer(tmp_path_factory) -> Path:
    """The folder of a transformer trained for a few steps."""
    run = tmp_path_factory.mktemp("transformer") / "run"
    return train(RunConfig.build({}, [*FLAGS, "--output_dir", str(run)]))


def generator(seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed)]


def test_a_trained_transformer_is_a_pipeline(transformer, tmp_path):
    pipe = load(transformer, device="cpu")
    assert type(pipe.transformer) is VideoTransformer
    assert pipe.denoiser is pipe.transformer
    assert pipe.unet is None
    assert pipe.rules.multiples(1, 2, 2) == pipe.rules
    video = pipe.sample(["a red circle"], generator(0))
    assert video.shape == (1, 3, 4, 16, 16)
    other = pipe.sample(["a red circle"], generator(0), num_frames=7, height=20, width=12)  # never trained
    assert other.shape == (1, 3, 7, 20, 12)
    assert other.isfinite().all()
    pipe.save_pretrained(tmp_path / "copy")
    again = load(tmp_path / "copy", device="cpu")
    assert torch.equal(again.sample(["a red circle"], generator(0)), video)
    weights = load_file(transformer / "transformer" / "diffusion_pytorch_model.safetensors")
    assert weights["leave.weight"].any()


def test_a_cache_keeps_nothing_of_another_video(transformer):
    pipe = load(transformer, device="cpu")
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))  # what follows a first step is always kept

    def made(prompt: str, seed: int, **shape: int) -> torch.Tensor:
        return pipe.sample([prompt], generator(seed), **shape)

    alone = made("a red circle", 0)
    made("a blue square grows", 1)
    made("a blue square grows", 1, num_frames=8, height=32, width=16)
    assert torch.equal(made("a red circle", 0), alone)


def test_a_backend_that_refuses_masks_is_for_what_has_none(transformer):
    pipe = load(transformer, device="cpu")
    plain = pipe.sample(["a red circle"], generator(0))
    pipe.transformer.set_attention_backend("_native_flash")
    torch.testing.assert_close(pipe.sample(["a red circle"], generator(0)), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampler", ["flow", "dpm++", "dpm++sde", "unipc"])
def test_the_oracle_lands_on_x_0(transformer, sampler):
    def run(pipe) -> torch.Tensor:
        pipe.use_sampler(sampler)
        assert isinstance(NativeFamily().schedule(pipe), AutoFlow)
        ended = []
        pipe.sample(["a red circle"], generator(1), num_inference_steps=6, on_step=lambda *at: ended.append(at[2]))
        return ended[-1]

    lands_on_x_0(transformer, "transformer", run, (1, 3, 4, 16, 16))


def test_an_adapter_of_it(transformer, tmp_path):
    own = [*FLAGS[: FLAGS.index("--kind")], *("--max_steps", "2", "--num_workers", "0", "--sample_steps", "0")]
    own += ["--model", str(transformer), "--preset", "lora", "--lora.rank", "2", "--no_wandb", "--no_tensorboard"]
    final = train(RunConfig.build({}, [*own, "--device", "cpu", "--output_dir", str(tmp_path / "adapter")]))
    family, pipe = opened(final)
    names = {name for name, _ in family.denoisers(pipe)["transformer"].named_modules() if name.endswith("lora_A")}
    assert any("text_attention.kv" in name for name in names)
    plain = opened(transformer)[1].sample(["a red circle"], generator(0))
    assert not torch.equal(pipe.sample(["a red circle"], generator(0)), plain)


def test_it_is_planned():
    config = RunConfig.build({}, [*FLAGS, "--shapes"])
    facts = facts_of(config)
    with torch.device("meta"):
        counted = sum(p.numel() for p in NativeFamily.denoiser(config, 32).parameters())
    assert sum(p.numel() for name, p in facts.trained.items() if name.startswith("denoiser")) == counted


def test_what_is_of_the_other_kind_is_refused():
    with pytest.raises(UsageError, match=r"model\.kind is unet3d, which has no model\.size"):
        RunConfig.build({}, ["--shapes", "--size", "5M"])
    with pytest.raises(UsageError, match=r"model\.kind is transformer, which has no model\.model_channels"):
        RunConfig.build({}, ["--shapes", "--kind", "transformer", "--model_channels", "64"])
    with pytest.raises(UsageError, match=r"diffusion\.shift is for the flow schedule"):
        RunConfig.build({}, ["--shapes", "--shift", "auto"])


def test_sizes_are_those_of_the_configuration():
    for name in SIZES:
        config = RunConfig.build({}, ["--shapes", "--kind", "transformer", "--size", name])
        with torch.device("meta"):
            assert len(NativeFamily.denoiser(config, 32).blocks) == SIZES[name]["num_layers"]
