"""`text2video data prepare`: the work of the codec and the frozen text encoder, done ahead of training."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt

from ..config import RunConfig, read_config
from ..values import preset_file, read_yaml
from .sources import ANYWHERE, Source
from .terminal import log_lines, passing_progress, say


def prepare(
    data: Path,
    out: Path,
    /,
    *,
    source: Source = ANYWHERE,
    layout: str | None = None,
    model: Path | None = None,
    preset: str = "finetune",
    codec: Path | None = None,
    text_encoder: str | None = None,
    num_frames: PositiveInt | None = None,
    fps: PositiveFloat | None = None,
    frame_size: PositiveInt | None = None,
    height: PositiveInt | None = None,
    width: PositiveInt | None = None,
    buckets: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    upscale: bool | None = None,
    short: Literal["repeat_last", "loop", "error"] | None = None,
    caption_prefix: str | None = None,
    dataset_class: str | None = None,
    max_samples: PositiveInt | None = None,
    save_latents_and_embeddings: bool = True,
    save_image_latents: bool = False,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    num_gpus: PositiveInt | None = None,
    engine: Literal["local", "ray"] = "local",
    device: Literal["auto", "cpu", "cuda", "mps"] | None = None,
    remove_unused: bool = False,
) -> None:
    """Encode videos and captions ahead of training, so that the encoders are not needed then.

    Interrupted in any way, the same command goes on where it stopped. Given again with other options, it encodes anew
    only what they change. Train with: text2video train --load_tensors OUT, and the same options.

    Args:
        data: The data set's folder or table.
        out: Folder for the result.
        layout: How the data set lies on disk; found out when not given.
        model: A run's YAML, or the folder of a model that will be trained on. Its options hold where no other is given.
        preset: Of the training to come, whose frames, size and rate hold where a pretrained model is given.
        codec: Folder of a diffusers autoencoder; without it pixels are stored as they are.
        text_encoder: builtin, clip, t5, a Hugging Face name or a folder.
        num_frames: Frames of a training clip.
        fps: Frames a second, in the middle of the clip; without it evenly over the clip.
        frame_size: Height and width in pixels.
        height: Height in pixels, in place of frame_size.
        width: Width in pixels, in place of frame_size.
        buckets: Shapes FRAMESxHEIGHTxWIDTH that clips go to, or auto.
        upscale: Let clips be enlarged to fill a bucket.
        short: What to do with shorter clips.
        caption_prefix: Trigger word put before every caption.
        dataset_class: Your subclass of TextVideoDataset, as module:Class.
        max_samples: Use the first clips only.
        save_latents_and_embeddings: Videos and captions are always encoded; other tools' flag for it.
        save_image_latents: Encode each clip's first frame by itself too.
        dtype: That latents and embeddings are stored in.
        num_gpus: Processes, each on its own GPU where there are GPUs.
        engine: ray spreads the work over a Ray cluster.
        device: Where to compute.
        remove_unused: Delete shards that hold nothing for these options any more.
    """
    given: dict[str, Any] = {"data_dir": data, **asdict(source), "layout": layout}
    given |= {"num_frames": num_frames, "fps": fps, "frame_size": frame_size, "height": height, "width": width}
    given |= {"buckets": buckets, "upscale": upscale, "short": short, "caption_prefix": caption_prefix}
    given |= {"dataset_class": dataset_class, "max_samples": max_samples}
    config = configured(
        model,
        {"data": given, "model": {"codec": codec}, "text": {"text_encoder": text_encoder}, "train": {"device": device}},
        preset,
    )
    from ..preparing.prepare import prepare as run
    from ..training.build import shape_rules
    from ..training.starting import open_base

    checking, encoding = passing_progress("checking clips", "files"), passing_progress("encoding", "clips and texts")
    with log_lines(), checking as on_checked, encoding as on_done:
        cache = run(
            config,
            out,
            image_latents=save_image_latents,
            dtype=dtype,
            num_gpus=num_gpus,
            engine=engine,
            remove_unused=remove_unused,
            rules=shape_rules(config, open_base(config, trainable_only=True)) if config.data.buckets else None,
            on_done=on_done,
            on_checked=on_checked,
        )
    say(f"{len(cache.clips)} clips are prepared, {len(cache.left_out)} left out.")
    say(f"Train with the same options and --load_tensors {out}")


def configured(model: Path | None, given: dict[str, dict[str, Any]], preset: str = "finetune") -> RunConfig:
    """The configuration of the run to come: the model's or YAML's, with what was given laid over it.

    Args:
        preset: of the run, where the model is a pretrained family's.
    """
    from ..families.opening import family_of, model_folder

    values: dict[str, Any] = {}
    if model is not None and model.suffix in (".yaml", ".yml"):
        values = read_config(model) | {"stages": []}  # each is prepared by itself, at the size that is given here
        values.setdefault("data", {}).pop("load_tensors", None)
        for name in ("data_dir", "data_root", "dataset_file", "caption_file", "shapes"):
            values["data"].pop(name, None)
    elif model is not None:
        values = {"train": {"init_from": str(model)}, "data": {}}
        index = model_folder(model) / "model_index.json"
        told = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
        if told and family_of(index.parent).frozen:  # the same options as `train --model`
            values["data"] = read_yaml(preset_file(preset))["data"]
        values["data"] |= {name: told[name] for name in ("num_frames", "height", "width") if name in told}
    data = given["data"]
    if data["frame_size"] is not None:  # it stands for both, whatever the model says of either
        values.setdefault("data", {}).update(height=None, width=None)
    for section, options in given.items():
        values.setdefault(section, {}).update({name: value for name, value in options.items() if value is not None})
    return RunConfig.build(values)
