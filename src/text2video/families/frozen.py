"""What of a model is frozen and can work ahead of training: its codec, and its pretrained text encoders.

They are known by the content of their files, so that what they encoded is never taken for another model's work. A
pretrained family encodes by itself; for our own models the configuration names codec and text encoder.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from ..config import RunConfig
from ..data.cache import Settings, content_mark, mark
from ..errors import UsageError
from ..models.codecs import OURS, Geometry
from ..models.text import builtin_in, text_source, text_width
from ..sizes import parse_all
from .opening import family_of, model_folder


@dataclass(frozen=True)
class Frozen:
    """The frozen parts of the model that a configuration means.

    Args:
        codec: folder of the autoencoder; None: pixels are denoised.
        text: name or folder of the pretrained text encoder; None: the built-in one, which reads in every step.
        model: folder of a pretrained family's model, which encodes in that family's own way; None: it is one of ours.
    """

    codec: Path | None = None
    text: str | None = None
    model: Path | None = None

    @classmethod
    def of(cls, config: RunConfig) -> "Frozen":
        """From a configuration, or from the model that it starts from.

        Raises:
            ModelError: that model is not there or not known.
        """
        if config.train.init_from:
            folder = model_folder(config.train.init_from)
            family, kept = family_of(folder), on_disk(folder)
            if family.frozen:
                return cls(kept.get("vae"), str(kept.get("text_encoder", folder / "text_encoder")), folder)
            return cls(kept.get("vae"), str(kept["text_encoder"]) if "text_encoder" in kept else None)
        text = config.text.text_encoder
        return cls(config.model.codec, None if text == "builtin" or builtin_in(text) else text)

    @property
    def geometry(self) -> Geometry | None:
        """Of the codec, from its configuration alone."""
        return Geometry.read(self.codec) if self.codec else None

    @property
    def text_width(self) -> int:
        """Width of the text encoder's embeddings, from its configuration alone; a guess where a family has none."""
        if self.model and not Path(self.text or "").is_dir():
            return 1024
        return text_width(AutoConfig.from_pretrained(text_source(self.text or "")))

    def marks(self) -> dict[str, Any]:
        """What the parts are and what is in their files: equal for equal models, wherever they lie."""
        if self.model:
            family = family_of(self.model)
            words = [name for name in family.frozen if name.startswith("text_encoder")]
            pictures = [name for name in family.frozen if name not in words]
            told = _configurations(self.model, family.denoiser_names)  # how many tokens, what of pictures
            return {
                "codec": f"{family.name}'s",
                "codec_content": mark(_contents(self.model, pictures), told),
                "text_encoder": f"{family.name}'s",
                "text_encoder_content": mark(_contents(self.model, words), told),
            }
        geometry = self.geometry
        return {
            "codec": geometry.kind if geometry else "pixels",
            "codec_content": _content(self.codec) if self.codec else "",
            "text_encoder": "pretrained" if self.text else "trained with the model",
            "text_encoder_content": _content(text_source(self.text)) if self.text else "",
        }


def on_disk(folder: Path) -> dict[str, Path]:
    """The frozen parts of a model folder: component -> its folder."""
    file = folder / "model_index.json"
    index = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}  # some are published without
    parts = {"vae": index.get("vae"), "text_encoder": index.get("text_encoder")}
    return {
        name: folder / name
        for name, kind in parts.items()
        if kind and (kind[0] in ("diffusers", "transformers") or tuple(kind) == OURS)
    }


def _configurations(model: Path, names: Sequence[str]) -> str:
    """What denoisers are, without what each saving writes anew, such as a version."""
    files = [model / name / "config.json" for name in names]
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    return json.dumps([{key: own[key] for key in sorted(own) if not key.startswith("_")} for own in found])


def _contents(model: Path, names: Sequence[str]) -> str:
    return mark(*(_content(model / name) for name in names if (model / name).is_dir()))


def _content(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".txt", ".model"))
    if not any(path.suffix == ".safetensors" for path in files):
        raise UsageError(f"{str(folder)!r} holds no weights as safetensors. Give the folder of a whole model.")
    return content_mark(*files)


def prepared_settings(config: RunConfig, frozen: Frozen, dtype: str, image_latents: bool = False) -> Settings:
    """What prepared data follows from, in a configuration.

    Args:
        dtype: that latents and embeddings are stored in.
    """
    data, marks = config.data, frozen.marks()
    height, width = data.size
    shapes: dict[str, Any] = {"buckets": data.buckets}
    if data.buckets:
        shapes |= {"upscale": data.upscale}
    if not data.buckets or isinstance(parse_all(data.buckets), str):  # buckets that are named leave these unused
        shapes |= {"num_frames": data.num_frames, "height": height, "width": width}
    sampled = {name: getattr(data, name) for name in ("fps", "short", "dataset_class")}
    codec = {name: marks[name] for name in ("codec", "codec_content")}
    text = {name: marks[name] for name in ("text_encoder", "text_encoder_content")}
    video = {**sampled, **codec, "dtype": dtype}
    return Settings(video, text | {"dtype": dtype}, shapes, data.caption_prefix.strip(), image_latents)
