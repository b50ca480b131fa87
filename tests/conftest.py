"""Shared by all tests: tiny runs that finish in seconds."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from chat_server import ChatServer, serving

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks the network, unless it is marked so
os.environ["TEXT2VIDEO_CACHE"] = tempfile.mkdtemp(prefix="text2video-tests-")  # the user's own stays as it is

CLIPS = Path(os.environ.get("TEXT2VIDEO_CLIPS", Path(__file__).parents[2] / "shared" / "clips"))

TINY = [
    *("--clips", "12", "--num_frames", "4", "--frame_size", "16", "--patch_size", "1", "2", "2"),
    *("--model_channels", "16", "--channel_mult", "1", "2", "--attention", "time", "full"),
    *("--downsample_time", "false", "--num_res_blocks", "1", "--head_dim", "16", "--text_width", "32"),
    *("--text_layers", "1", "--batch_size", "4", "--val_fraction", "0.25", "--val_samples", "4"),
    *("--learning_rate", "1e-3", "--max_steps", "6", "--save_steps", "2", "--eval_steps", "3"),
    *("--sample_steps", "0", "--num_inference_steps", "3", "--scheduler", "ddim", "--num_workers", "0"),
    *("--no_wandb", "--no_tensorboard", "--ema_decay", "0.9", "--device", "cpu"),
]


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """The folder of real clips; tests that need it are skipped where it is missing."""
    if not (CLIPS / "manifest.csv").is_file():
        pytest.skip("the folder of real clips is not here")
    return CLIPS


@pytest.fixture(scope="session")
def tiny_flags() -> list[str]:
    """The command-line tokens of a tiny run, without its output_dir."""
    return TINY


@pytest.fixture
def tiny(tmp_path):
    """A function that makes the configuration of a tiny run: `tiny("--seed", "1", output_dir=...)`."""
    from text2video.config import RunConfig

    def make(*flags: str, output_dir: Path = tmp_path / "run"):
        return RunConfig.build({}, [*TINY, "--output_dir", str(output_dir), *flags])

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The folder of a model trained for a few steps."""
    from text2video.config import RunConfig
    from text2video.training.trainer import train

    return train(RunConfig.build({}, [*TINY, "--output_dir", str(tmp_path_factory.mktemp("tiny") / "run")]))


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    """A server that answers chats, and fails as it is told."""
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def tiny_captioners(tmp_path_factory) -> Path:
    """A folder with `llava`, `blip` and `llama`: tiny random models."""
    from tiny_captioners import write_blip, write_language_model, write_llava

    folder = tmp_path_factory.mktemp("captioners")
    torch.manual_seed(0)
    write_llava(folder / "llava")
    write_blip(folder / "blip")
    write_language_model(folder / "llama")
    return folder


@pytest.fixture(autouse=True)
def _threads():
    """A test that changes torch's seed or threads does not change the next one."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    yield
    torch.set_rng_state(state)
    torch.set_num_threads(threads)


def tiny_codec(kind: str):
    """A random autoencoder of ours or of a diffusers class: 4 latent channels, 2 or 8 pixels a latent."""
    import diffusers

    from text2video import VideoVAE

    torch.manual_seed(0)
    if kind == "VideoVAE":
        vae = VideoVAE(latent_channels=4, block_out_channels=(8, 8), encoder_layers=(1, 1), decoder_layers=(1, 1))
    elif kind == "AutoencoderKL":
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        numbers = {"scaling_factor": 0.5, "shift_factor": 0.1, "norm_num_groups": 4, "latent_channels": 4}
        vae = diffusers.AutoencoderKL(block_out_channels=(8, 8), layers_per_block=1, **blocks, **numbers)
    elif kind == "AutoencoderKLTemporalDecoder":
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "block_out_channels": (32, 32)}
        vae = diffusers.AutoencoderKLTemporalDecoder(layers_per_block=1, **blocks)
    elif kind == "AutoencoderKLWan":
        numbers = {"latents_mean": [0.1, -0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 0.5, 1.5]}
        vae = diffusers.AutoencoderKLWan(base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **numbers)
    elif kind == "AutoencoderKLCogVideoX":
        blocks = {"down_block_types": ("CogVideoXDownBlock3D",) * 4, "up_block_types": ("CogVideoXUpBlock3D",) * 4}
        numbers = {"block_out_channels": (8, 8, 8, 8), "latent_channels": 4, "norm_num_groups": 2}
        vae = diffusers.AutoencoderKLCogVideoX(layers_per_block=1, **blocks, **numbers)
    else:
        off, widths = (False,) * 4, (8, 8, 8, 8)
        vae = diffusers.AutoencoderKLLTXVideo(
            latent_channels=4,
            block_out_channels=widths,
            decoder_block_out_channels=widths,
            layers_per_block=(1,) * 5,
            decoder_layers_per_block=(1,) * 5,
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            decoder_inject_noise=(*off, False),
            upsample_residual=off,
            upsample_factor=(1,) * 4,
            patch_size=2,
        )
    return vae.eval()


@pytest.fixture(scope="session")
def codecs(tmp_path_factory):
    """A function from an autoencoder's class to the folder of a tiny random one."""
    folder = tmp_path_factory.mktemp("codecs")

    def make(kind: str = "AutoencoderKL") -> Path:
        if not (folder / kind).is_dir():
            tiny_codec(kind).save_pretrained(folder / kind)
        return folder / kind

    return make


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> Path:
    """The folder of a tiny random CLIP text encoder with its tokenizer."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from text2video.models.text import train_tokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = train_tokenizer(["a red circle moves left"], max_tokens=77)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    CLIPTextModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """A data set of ten short clips, one of them broken and one with two captions."""
    from text2video.data import shapes

    folder = tmp_path_factory.mktemp("clips") / "data"
    shapes.write(folder, 10, size=32, num_frames=6)
    names = sorted((folder / "videos").iterdir())
    names[3].write_bytes(names[3].read_bytes()[:200])
    with (folder / "captions" / f"{names[0].stem}.txt").open("a", encoding="utf-8") as file:
        file.write("\nsomething moves\n")
    return folder
