"""One writer for each layout: the texts and tables beside the files, or archives with the files inside."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .archives import write_huggingface, write_webdataset
from .clips import Clip, Manifest, clean_caption, write_file

TABLES = ("csv", "tsv", "json", "jsonl", "parquet")
STRETCHES = (*TABLES, "metadata", "webdataset", "manifest")  # these can say that a clip is part of a file
ONE_CAPTION = ("pairs", "musubi_tuner")  # and these hold no more than one caption a clip
UNIQUE_STEMS = ("pairs", "diffusion_pipe", "musubi_tuner", "webdataset")  # a.mp4 and a.mov cannot stand together
ARCHIVED = ("webdataset", "huggingface")  # the files go into the archives and not to videos/


@dataclass(frozen=True)
class Export:
    """What is written and where.

    Args:
        folder: the folder to write to, which becomes `home` when it is finished.
        home: its name then.
        manifest: the clips.
        places: where each file goes, below `videos/` or in an archive, as a posix path.
    """

    folder: Path
    home: Path
    manifest: Manifest
    places: dict[Path, str]

    def captions(self) -> dict[str, list[str]]:
        """The captions of each place; for layouts in which a clip is a whole file."""
        return {self.places[clip.path]: captions_of(clip) for clip in self.manifest.clips}


def captions_of(clip: Clip) -> list[str]:
    """The clip's captions, each in one line."""
    return [clean_caption(caption) for caption in clip.captions]


def _write_captions_txt(export: Export) -> None:
    names = {name.casefold() for name in export.places.values()}
    stems = Counter(_stem(name).casefold() for name in export.places.values())
    (export.folder / "captions").mkdir()
    for name, captions in export.captions().items():
        stem = _stem(name)
        alone = stems[stem.casefold()] == 1 and stem.casefold() not in names
        file = export.folder / "captions" / f"{stem if alone else name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, "".join(caption + "\n" for caption in captions))


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _write_captions_json(export: Export) -> None:
    content = {name: several if len(several) > 1 else several[0] for name, several in export.captions().items()}
    write_file(export.folder / "captions.json", json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def _write_text_lists(export: Export) -> None:
    lines = [(caption, name) for name, captions in export.captions().items() for caption in captions]
    write_file(export.folder / "prompt.txt", "".join(f"{caption}\n" for caption, _ in lines))
    write_file(export.folder / "videos.txt", "".join(f"videos/{name}\n" for _, name in lines))


def _write_pairs(export: Export) -> None:
    for name, captions in export.captions().items():
        write_file(export.folder / "videos" / f"{_stem(name)}.txt", captions[0] + "\n")


def _write_diffusion_pipe(export: Export) -> None:
    """Pairs; captions.json in each folder where clips have several captions. A part for each folder."""
    parts: dict[str, dict[str, list[str]]] = {}
    for name, captions in export.captions().items():
        parts.setdefault(str(PurePosixPath(name).parent), {})[PurePosixPath(name).name] = captions
    lines = ["resolutions = [512]", "enable_ar_bucket = true", "min_ar = 0.5", "max_ar = 2.0", "num_ar_buckets = 7"]
    lines += ["frame_buckets = [1, 33]"]
    for part, named in parts.items():
        at = export.folder / "videos" / part
        if any(len(captions) > 1 for captions in named.values()):
            write_file(at / "captions.json", json.dumps(named, ensure_ascii=False, indent=2) + "\n")
        else:
            for name, captions in named.items():
                write_file(at / f"{_stem(name)}.txt", captions[0] + "\n")
        lines += ["", "[[directory]]", f"path = {_toml(export.home / 'videos' / part)}", "num_repeats = 1"]
    write_file(export.folder / "dataset.toml", "\n".join(lines) + "\n")


def _write_musubi_tuner(export: Export) -> None:
    """Pairs. A part for each folder, and for its pictures one of their own."""
    _write_pairs(export)
    parts = dict.fromkeys(
        (str(PurePosixPath(export.places[clip.path]).parent), clip.is_picture) for clip in export.manifest.clips
    )
    lines = ["[general]", "resolution = [960, 544]", 'caption_extension = ".txt"', "batch_size = 1"]
    lines += ["enable_bucket = true", "bucket_no_upscale = false"]
    for number, (part, pictures) in enumerate(parts):
        kind = "image" if pictures else "video"
        lines += ["", "[[datasets]]", f"{kind}_directory = {_toml(export.home / 'videos' / part)}"]
        lines += [f"cache_directory = {_toml(export.home / 'cache' / str(number))}"]
        lines += [] if pictures else ["target_frames = [1, 25, 45]", 'frame_extraction = "head"']
    write_file(export.folder / "dataset.toml", "\n".join(lines) + "\n")


def _toml(path: Path) -> str:
    """A path as a TOML string. Those tools resolve relative paths from where they are started, so it is absolute."""
    return json.dumps(path.as_posix(), ensure_ascii=False)


def _write_webvid(export: Export) -> None:
    stems = Counter(_stem(name).casefold() for name in export.places.values())
    rows = []
    for name, captions in export.captions().items():
        path = PurePosixPath(name)
        plain = path.suffix == ".mp4" and stems[_stem(name).casefold()] == 1
        page = "" if str(path.parent) == "." else str(path.parent)
        for caption in captions:
            rows.append(
                {"videoid": path.stem if plain else path.name, "contentUrl": "", "page_dir": page, "name": caption}
            )
    write_file(export.folder / "webvid.csv", _csv(rows, ["videoid", "contentUrl", "page_dir", "name"], ","))


def _write_manifest(export: Export) -> None:
    clips = [
        replace(clip, path=export.folder / "videos" / export.places[clip.path], captions=tuple(captions_of(clip)))
        for clip in export.manifest.clips
    ]
    manifest = Manifest(export.folder, "manifest", clips, export.manifest.left_out)
    manifest.save(export.folder / "manifest.jsonl")


def _table_writer(name: str, suffix: str, column: str) -> Callable[[Export], None]:
    """Writes rows of a video column and a caption column; clips of several captions have several rows."""

    def write(export: Export) -> None:
        clips = export.manifest.clips
        cut = any(clip.source != clip.id for clip in clips)
        rows: list[dict[str, Any]] = [
            {column: f"videos/{export.places[clip.path]}", "caption": caption}
            | ({"start": clip.start, "end": clip.end} if cut else {})
            for clip in clips
            for caption in captions_of(clip)
        ]
        file = export.folder / f"{name}.{suffix}"
        if suffix == "parquet":
            fields = [(column, pa.string()), ("caption", pa.string())]
            fields += [("start", pa.float64()), ("end", pa.float64())] if cut else []
            pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), file)
        elif suffix == "jsonl":
            write_file(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        elif suffix == "json":
            write_file(file, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
        else:
            columns = [column, "caption", *(("start", "end") if cut else ())]
            write_file(file, _csv(rows, columns, "\t" if suffix == "tsv" else ","))

    return write


def _csv(rows: list[dict[str, Any]], columns: list[str], delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write_webdataset(export: Export) -> None:
    write_webdataset(export.folder / "shards", _files(export))


def _write_huggingface(export: Export) -> None:
    write_huggingface(export.folder / "data", _files(export))


def _files(export: Export) -> list[tuple[Path, str, list[Clip]]]:
    """Each file, its name in an archive, and the clips that are in it."""
    clips: dict[Path, list[Clip]] = {}
    for clip in export.manifest.clips:
        clips.setdefault(clip.path, []).append(clip)
    return [(path, name, clips[path]) for path, name in export.places.items()]


WRITERS: dict[str, Callable[[Export], None]] = {
    "captions_txt": _write_captions_txt,
    "captions_json": _write_captions_json,
    "text_lists": _write_text_lists,
    "pairs": _write_pairs,
    "webvid": _write_webvid,
    "metadata": _table_writer("metadata", "csv", "file_name"),
    "webdataset": _write_webdataset,
    "huggingface": _write_huggingface,
    "diffusion_pipe": _write_diffusion_pipe,
    "musubi_tuner": _write_musubi_tuner,
    "manifest": _write_manifest,
    **{suffix: _table_writer("dataset", suffix, "video") for suffix in TABLES},
}
