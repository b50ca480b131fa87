"""The TOML files in which diffusion-pipe and musubi-tuner describe a data set.

What says where clips and captions are is read as those tools read it. What says how to train on them (sizes, frames,
repeats) is another thing here: each such setting becomes a note that names the option with that meaning.

Formats: `examples/dataset.toml` of tdrussell/diffusion-pipe, `docs/dataset_config.md` of kohya-ss/musubi-tuner.
"""

import os
import tomllib
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...video import PICTURES
from ..clips import VIDEOS, Manifest, relative
from ..locate import Locator
from ..tables import Pairs, iter_rows, read_json, read_text
from .folders import take_pairs
from .gather import Gather, scan

# Setting of theirs -> what to give here in its place.
_SIZES = "give --height and --width"
_NOTHING = "there is nothing like it here"
_MEANS = {
    "resolution": _SIZES,
    "resolutions": _SIZES,
    "size_buckets": _SIZES + " and --num_frames",
    "ar_buckets": _SIZES,
    "enable_ar_bucket": _SIZES,
    "min_ar": _SIZES,
    "max_ar": _SIZES,
    "num_ar_buckets": _SIZES,
    "enable_bucket": _SIZES,
    "bucket_no_upscale": "`data check` says which clips are enlarged",
    "frame_buckets": "give --num_frames",
    "target_frames": "give --num_frames",
    "max_frames": "give --num_frames",
    "frame_extraction": "with --fps a window is drawn anew each epoch",
    "frame_stride": "with --fps a window is drawn anew each epoch",
    "frame_sample": "with --fps a window is drawn anew each epoch",
    "source_fps": "the file's own times count, and --fps is the rate to sample at",
    "batch_size": "give --batch_size",
    "num_repeats": "give --repeats",
    "caption_prefix": "give --caption_prefix",
    "cache_directory": _NOTHING + ", and none is needed",
    "skip_empty_caption": "clips without a caption are left out",
    "online_captions": "captions are always read anew",
}
_SOURCES = {
    "diffusion_pipe": ("path",),
    "musubi_tuner": ("video_directory", "video_jsonl_file", "image_directory", "image_jsonl_file"),
}
_READ = {
    "directory",
    "general",
    "datasets",
    "caption_extension",
    *_SOURCES["diffusion_pipe"],
    *_SOURCES["musubi_tuner"],
}


def read_description(file: Path, data_root: Path | None = None) -> Manifest:
    """The clips that a TOML file describes.

    Relative paths begin in the current folder, as in those tools, else in the folder of the file. Ids are paths below
    the folder of the file, or, where it does not hold all that is named, below the folder that does.

    Args:
        file: with `[[directory]]` (diffusion-pipe) or `[[datasets]]` (musubi-tuner).
        data_root: what names in JSON lines must not lead out of; None is that file's folder.

    Raises:
        DataError: it is no TOML, or none of theirs, or what it names is not there.
    """
    try:
        content = tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{file} is not TOML: {error}. Put that line right.") from error
    kind = "diffusion_pipe" if "directory" in content else "musubi_tuner"
    parts = content.get("directory") or content.get("datasets")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise DataError(f"{file} describes no data set: [[directory]] or [[datasets]] is expected in it.")
    general = content.get("general", {}) if kind == "musubi_tuner" else content
    notes = _notes(general, "all parts")
    found: dict[tuple[Path, str], dict[str, Any]] = {}
    for number, part in enumerate(parts, 1):
        notes += _notes(part, f"part {number}")
        source = _source(file, kind, number, part)
        if source in found:
            notes.append(f"part {number} names {source[0]} again: each clip is used once")
        found.setdefault(source, {**general, **part})
    gather = Gather(_common(file, [path for path, _ in found], data_root), kind)
    gather.notes += notes
    for (path, key), settings in found.items():
        if path.is_dir():
            _take_folder(gather, path, key, str(settings.get("caption_extension") or ".txt"))
        else:
            _take_lines(gather, path, data_root or path.parent)
    return gather.manifest()


def _source(file: Path, kind: str, number: int, part: dict[str, Any]) -> tuple[Path, str]:
    """The folder, or the file of JSON lines, that one part of the description names, and the key that names it."""
    key = next((key for key in _SOURCES[kind] if isinstance(part.get(key), str)), None)
    if key is None:
        wanted = " or ".join(_SOURCES[kind])
        raise DataError(f"{file}, part {number} does not say where its clips are: {wanted} is missing.")
    for start in (Path.cwd(), file.parent):
        path = Path(os.path.normpath(start / Path(part[key]).expanduser()))
        if path.exists():
            return path, key
    raise DataError(f"{file}, part {number} names {part[key]}, which is not there. Put the path right.")


def _common(file: Path, sources: list[Path], data_root: Path | None) -> Path:
    """The data root: the file's folder, or the one that holds all that is named, one level up: so ids tell it apart."""
    home = data_root or file.parent
    if all(source.is_relative_to(home) for source in sources):
        return home
    holders = [source.parent if source.is_dir() else data_root or source.parent for source in sources]
    try:
        return Path(os.path.commonpath(holders))
    except ValueError as error:
        raise DataError(f"{file} names folders on several disks. Describe each disk in a file of its own.") from error


def _notes(settings: dict[str, Any], where: str) -> list[str]:
    return [
        f"{name} = {value!r} of {where} is not used: {_MEANS.get(name, _NOTHING)}".replace("\n", " ")
        for name, value in settings.items()
        if name not in _READ
    ]


def _take_folder(gather: Gather, folder: Path, key: str, extension: str) -> None:
    """The files at the top of a folder; those tools do not look deeper."""
    media = _top(folder, {"video_directory": VIDEOS, "image_directory": PICTURES}.get(key, VIDEOS | PICTURES))
    for path in _top(folder, frozenset((".tar",))).values():
        gather.leave(relative(path, gather.root), "a tar in such a folder is not read: give it as the data set itself")
    captions = folder / "captions.json"
    if key == "path" and captions.is_file():  # there, too, it goes before the texts
        content = read_json(captions)
        by_name = dict(content) if isinstance(content, Pairs) else {}
        for name, path in media.items():
            gather.take(path, by_name.get(name), relative(captions, gather.root))
        return
    found = _top(folder, frozenset((Path(f"a{extension}").suffix.lower(),)))
    texts = {name[: -len(extension)]: path for name, path in found.items() if name.endswith(extension)}
    take_pairs(gather, media, texts)


def _top(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    return {name: path for name, path in scan(folder, suffixes).items() if "/" not in name}


def _take_lines(gather: Gather, file: Path, root: Path) -> None:
    """musubi-tuner's JSON lines: `video_path` or `image_path`, and `caption`."""
    locate = Locator(root)
    for where, row in iter_rows(file):
        where = f"{file.name} {where}"
        if isinstance(row, str):
            gather.leave(where, f"the row cannot be read (it {row})")
            continue
        name = next((row[key] for key in ("video_path", "image_path") if isinstance(row.get(key), str)), None)
        if name is None:
            gather.leave(where, "no video_path or image_path")
            continue
        path = locate(name)
        if isinstance(path, str) and isinstance(here := locate(str(Path.cwd() / name)), Path):
            path = here  # as that tool resolves it
        if isinstance(path, str):
            hint = ": give data_root" if "leads out" in path else ""
            gather.leave(name, f"{path}{hint} ({where})")
        else:
            gather.take(path, row.get("caption"), where)
