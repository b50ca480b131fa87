"""What does the planner say of fine-tuning a ModelScope model on 50 clips, 512x512x16, 100 epochs, on common cards?

    python benchmarks/planner_cards.py

The model is the published one in size, as configurations without weights: the planner needs no more. Times are
estimates from data sheets, not measured.
"""

import json
import sys
import tempfile
from pathlib import Path

from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
from machine import write_result
from transformers import CLIPTextConfig

from text2video.config import RunConfig
from text2video.planner.cards import CARDS
from text2video.planner.plan import plan

WAYS = {
    "all weights": [],
    "adapter": ["--preset", "lora"],
    "adapter, prepared": ["--preset", "lora", "--load_tensors", "prepared", "--sample_steps", "0"],
    "adapter, prepared, 256x256": [
        *("--preset", "lora", "--load_tensors", "prepared", "--sample_steps", "0", "--frame_size", "256")
    ],
}


def bare(folder: Path) -> None:
    """The published model's configurations."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "families"))
    from checkpoints import clip_text

    with init_empty_weights():
        widths = (128, 256, 512, 512)
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        AutoencoderKL(block_out_channels=widths, layers_per_block=2, **blocks).save_config(folder / "vae")
        UNet3DConditionModel().save_config(folder / "unet")  # diffusers' defaults are this model's
    text = {"vocab_size": 49408, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23}
    CLIPTextConfig(**text, num_attention_heads=16).save_pretrained(folder / "text_encoder")
    clip_text(16, 77)[1].save_pretrained(folder / "tokenizer")
    DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).save_pretrained(
        folder / "scheduler"
    )
    parts = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet3DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    index = {"_class_name": "TextToVideoSDPipeline", **parts}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def main() -> None:
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        bare(Path(folder))
        for name, flags in WAYS.items():
            config = RunConfig.build({}, ["--model", folder, *flags])
            found = plan(config, on_gpu=True, clips=50)
            hours = {card.name: sum(found.seconds(card).values()) / 3600 for card in CARDS.values()}
            results[name] = {
                "GB": found.peak / 1e9,
                "parts": {part: size / 1e9 for part, size in found.memory.items()},
                "hours": hours,
                "TFLOP_a_step": found.step.flops / 1e12,
                "steps": found.steps,
            }
            print(f"{name}: {found.peak / 1e9:.1f} GB; " + ", ".join(f"{c} {h:.1f} h" for c, h in hours.items()))
    write_result("planner_cards", {"ways": results}, ("torch", "diffusers", "transformers"))


if __name__ == "__main__":
    main()
