"""Tiny random parts that several families share, tokenizers too; each family's own are in its test."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerFast, T5Config, T5EncoderModel

WORDS = ["a", "red", "blue", "green", "circle", "square", "moves", "left", "right", "up", "down", "the", "big", "small"]


def clip_text(width: int = 16, length: int = 12) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """A CLIP text encoder with a word list of its own."""
    vocabulary = ["<|startoftext|>", "<|endoftext|>"] + [f"{word}</w>" for word in WORDS]
    vocabulary += [chr(code) for code in range(97, 123)] + [f"{chr(code)}</w>" for code in range(97, 123)]
    tokenizer = CLIPTokenizer(
        vocab={token: place for place, token in enumerate(vocabulary)}, merges=[], model_max_length=length
    )
    torch.manual_seed(1)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        projection_dim=width,
    )
    return CLIPTextModel(config), tokenizer


def t5_text(width: int = 16) -> tuple[T5EncoderModel, PreTrainedTokenizerFast]:
    """A T5 encoder with a word list of its own; padding 0, end of text 1."""
    vocabulary = ["<pad>", "</s>", "<unk>", *WORDS]
    model = models.WordLevel({token: place for place, token in enumerate(vocabulary)}, unk_token="<unk>")
    inner = Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(2)
    config = T5Config(
        vocab_size=len(vocabulary),
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config), tokenizer


def image_vae(channels: int = 4):
    """The autoencoder of Stable Diffusion, frames by themselves."""
    from diffusers import AutoencoderKL

    torch.manual_seed(3)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=16,
    )


def stable_diffusion(folder: Path) -> None:
    """`StableDiffusionPipeline`, of images, with the scheduler of Stable Diffusion 1.5."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    text_encoder, tokenizer = clip_text()
    vae = image_vae()
    torch.manual_seed(4)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        sample_size=8,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1,
        set_alpha_to_one=False,
    )  # fmt: skip
    parts = {"safety_checker": None, "feature_extractor": None}
    StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, **parts, requires_safety_checker=False
    ).save_pretrained(folder)
