"""Pretrained families' models with random weights in their true sizes, or toys of the same make.

The sizes are those of the published configurations: THUDM/CogVideoX-2b, Wan-AI/Wan2.1-T2V-1.3B-Diffusers and
ali-vilab/text-to-video-ms-1.7b. Text encoders are toys that are as wide as the true ones: training on prepared data
never opens them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@dataclass(frozen=True)
class Model:
    """A model of diffusers that is fine-tuned here.

    Args:
        pipeline: its class.
        component: name of the denoiser.
        denoiser: its class.
        vae: maker of the autoencoder, from the sizes given.
        sizes, tiny: of the denoiser, and of its toy.
        tiny_vae: of the toy's autoencoder; the true one has diffusers' defaults.
        scheduler: maker.
        shape, tiny_shape: frames, height and width of a clip.
        text: kind, width and tokens of its text encoder.
        loss: denoiser, scheduler, latents, text -> loss, as diffusers' own training scripts have it.
    """

    pipeline: str
    component: str
    denoiser: Any
    vae: Callable[..., Any]
    sizes: Mapping[str, Any]
    tiny: Mapping[str, Any]
    tiny_vae: Mapping[str, Any]
    scheduler: Callable[[], Any]
    shape: tuple[int, int, int]
    tiny_shape: tuple[int, int, int]
    text: tuple[str, int, int]
    loss: Callable[[Any, Any, torch.Tensor, torch.Tensor], torch.Tensor]

    def save(self, folder: Path, tiny: bool) -> None:
        """The whole model as a folder, in bfloat16."""
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        try:
            denoiser = self.denoiser(**(self.tiny if tiny else self.sizes))
            vae = self.vae(**(self.tiny_vae if tiny else {}))
        finally:
            torch.set_default_dtype(torch.float32)
        kind, width, _ = self.text
        encoder, tokenizer = text_encoder(kind, 16 if tiny else width)
        parts = {"text_encoder": encoder.to(torch.bfloat16), "tokenizer": tokenizer, "vae": vae}
        pipe = getattr(diffusers, self.pipeline)(**parts, **{self.component: denoiser}, scheduler=self.scheduler())
        pipe.save_pretrained(folder)


def text_encoder(kind: str, width: int) -> tuple[Any, Any]:
    """One layer of T5, UMT5 or CLIP, `width` wide, and a tokenizer that knows letters."""
    letters = [chr(code) for code in range(97, 123)]
    if kind == "clip":
        words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
        tokenizer = CLIPTokenizer(vocab={w: n for n, w in enumerate(words)}, merges=[], model_max_length=77)
        sizes = {"vocab_size": len(words), "hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1}
        ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        return CLIPTextModel(CLIPTextConfig(**sizes, **ends, num_attention_heads=2)), tokenizer
    words = ["<pad>", "</s>", "<unk>", *letters]
    inner = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    config, model = (UMT5Config, UMT5EncoderModel) if kind == "umt5" else (T5Config, T5EncoderModel)
    sizes = {"vocab_size": len(words), "d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return model(config(**sizes)), tokenizer


def velocity_loss(denoiser: Any, scheduler: Any, latents: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """CogVideoX: latents `[B, F, C, H, W]`, v-prediction (diffusers' train_cogvideox_lora.py)."""
    x_0 = latents.transpose(1, 2)
    noise, t = torch.randn_like(x_0), torch.randint(0, 1000, (len(x_0),), device=x_0.device)
    noisy = scheduler.add_noise(x_0, noise, t)
    found = denoiser(hidden_states=noisy, encoder_hidden_states=text, timestep=t, return_dict=False)[0]
    alphas = scheduler.alphas_cumprod.to(x_0.device)[t].view(-1, 1, 1, 1, 1)
    clean = scheduler.get_velocity(found, noisy, t)
    return ((clean.float() - x_0).square() / (1 - alphas)).mean()


def flow_loss(denoiser: Any, scheduler: Any, latents: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Wan: straight paths, logit-normal times."""
    noise, level = torch.randn_like(latents), torch.randn(len(latents), device=latents.device).sigmoid()
    part = level.view(-1, 1, 1, 1, 1)
    noisy = (1 - part) * latents + part * noise
    found = denoiser(hidden_states=noisy, timestep=level * 1000, encoder_hidden_states=text, return_dict=False)[0]
    return (found.float() - (noise - latents)).square().mean()


def noise_loss(denoiser: Any, scheduler: Any, latents: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """ModelScope: epsilon."""
    noise, t = torch.randn_like(latents), torch.randint(0, 1000, (len(latents),), device=latents.device)
    found = denoiser(scheduler.add_noise(latents, noise, t), t, text, return_dict=False)[0]
    return (found.float() - noise).square().mean()


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
IMAGE_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
MODELS = {
    "cogvideox-2b": Model(
        "CogVideoXPipeline",
        "transformer",
        diffusers.CogVideoXTransformer3DModel,
        diffusers.AutoencoderKLCogVideoX,
        {"num_attention_heads": 30, "attention_head_dim": 64, "num_layers": 30, "sample_frames": 49},
        {
            **{"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4},
            **{"time_embed_dim": 8, "text_embed_dim": 16, "num_layers": 2, "sample_width": 8, "sample_height": 8},
            **{"sample_frames": 9, "max_text_seq_length": 226},
        },
        {
            "down_block_types": ("CogVideoXDownBlock3D",) * 4,
            "up_block_types": ("CogVideoXUpBlock3D",) * 4,
            **{"block_out_channels": (8, 8, 8, 8), "latent_channels": 4, "norm_num_groups": 2, "layers_per_block": 1},
        },
        lambda: diffusers.CogVideoXDDIMScheduler(
            **BETAS,
            prediction_type="v_prediction",
            snr_shift_scale=3.0,
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            set_alpha_to_one=True,
        ),
        (49, 480, 720),
        (9, 64, 64),
        ("t5", 4096, 226),
        velocity_loss,
    ),
    "wan2.1-1.3b": Model(
        "WanPipeline",
        "transformer",
        diffusers.WanTransformer3DModel,
        diffusers.AutoencoderKLWan,
        {"num_attention_heads": 12, "attention_head_dim": 128, "num_layers": 30, "ffn_dim": 8960},
        {
            **{"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4},
            **{"text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32},
        },
        {"base_dim": 3, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
        | {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4},
        lambda: diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        (81, 480, 832),
        (9, 32, 32),
        ("umt5", 4096, 512),
        flow_loss,
    ),
    "modelscope-1.7b": Model(
        "TextToVideoSDPipeline",
        "unet",
        diffusers.UNet3DConditionModel,
        lambda **sizes: diffusers.AutoencoderKL(**IMAGE_VAE | sizes),
        {"cross_attention_dim": 1024, "attention_head_dim": 64},
        {
            "block_out_channels": (8, 16),
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
            **{"layers_per_block": 1, "cross_attention_dim": 16, "attention_head_dim": 4, "norm_num_groups": 4},
        },
        {
            "block_out_channels": (8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            **{"norm_num_groups": 4, "layers_per_block": 1},
        },
        lambda: diffusers.DDIMScheduler(**BETAS, set_alpha_to_one=False, steps_offset=1),
        (16, 256, 256),
        (4, 16, 16),
        ("clip", 1024, 77),
        noise_loss,
    ),
}
