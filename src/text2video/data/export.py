"""Writes a manifest's clips and captions as a new data set, in any layout, so that reading it gives them back.

Several captions of a clip are several lines, list entries or rows. Captions are single lines everywhere: a line break
inside one becomes a space. Layouts that cannot hold a thing refuse it in words instead of dropping it.
"""

import csv
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, UsageError
from .clips import Clip, Manifest, clean_caption, write_file

TABLES = ("csv", "tsv", "json", "jsonl", "parquet")


def write_layout(manifest: Manifest, folder: str | Path, layout: str, *, link: bool = False) -> None:
    """Writes the clips into a new folder in a layout, with the files copied to `videos/`.

    Clips that were left out are not written; the manifest layout keeps their names and reasons.

    Args:
        manifest: what to write.
        folder: must not exist, or be empty. It appears whole or not at all.
        layout: captions_txt, captions_json, text_lists, webvid, manifest, or a table: csv (also as `table`), tsv,
            json, jsonl, parquet.
        link: hard links instead of copies where the file system can: no space is used, and a change to one file is
            a change to both.

    Raises:
        UsageError: the layout is unknown.
        DataError: the folder is not empty or cannot be written, or the layout cannot hold the clips.
    """
    layout = "csv" if layout == "table" else layout
    if layout not in _WRITERS:
        raise UsageError(f"There is no layout {layout!r} to write. There are {', '.join(_WRITERS)}.")
    if layout not in (*TABLES, "manifest") and (cut := [c.id for c in manifest.clips if c.source != c.id]):
        raise DataError(
            f"{layout} cannot say that a clip is a stretch of a longer file, as {cut[0]} is. "
            f"Write one of {', '.join((*TABLES, 'manifest'))}."
        )
    folder = Path(os.path.normpath(Path(folder).absolute()))
    unfinished = folder.with_name(f".tmp-{os.getpid()}-{folder.name}")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise DataError(f"{folder} is not empty, and nothing in it is overwritten. Name a new folder.")
        unfinished.mkdir(parents=True)
        places = _places(manifest, layout)
        for source, place in places.items():
            _copy(source, unfinished / "videos" / place, link)
        _WRITERS[layout](unfinished, manifest, places)
        if folder.exists():
            folder.rmdir()
        unfinished.replace(folder)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error.strerror or error} ({error.filename or folder}). "
            "Check the path and the free space."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _places(manifest: Manifest, layout: str) -> dict[Path, str]:
    """Where each file goes below `videos/`: where it was, unless that place is taken (in any case of letters)."""
    places: dict[Path, str] = {}
    taken: set[str] = set()
    for clip in manifest.clips:
        if clip.path in places:
            continue
        inside = clip.path.is_relative_to(manifest.root)
        path = PurePosixPath(clip.path.relative_to(manifest.root).as_posix() if inside else clip.path.name)
        if path.parts[0] == "videos":
            path = path.relative_to("videos")
        place, number = path, 2
        while str(place).casefold() in taken:
            place, number = path.with_stem(f"{path.stem}-{number}"), number + 1
        if layout == "text_lists" and ("\n" in str(place) or "\r" in str(place)):
            raise DataError(
                f"text_lists cannot hold the file name {str(place)!r}: it has a line break. Rename the file."
            )
        taken.add(str(place).casefold())
        places[clip.path] = str(place)
    return places


def _copy(source: Path, place: Path, link: bool) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(source.resolve(), place)
            return
        except OSError:  # another disk, or a file system without links
            pass
    shutil.copyfile(source, place)


Places = dict[Path, str]


def _captions_of(clip: Clip) -> list[str]:
    return [clean_caption(caption) for caption in clip.captions]


def _write_captions_txt(folder: Path, manifest: Manifest, places: Places) -> None:
    names = {name.casefold() for name in places.values()}
    stems = Counter(_stem(name).casefold() for name in places.values())
    (folder / "captions").mkdir()
    for clip in manifest.clips:
        name = places[clip.path]
        stem = _stem(name)
        alone = stems[stem.casefold()] == 1 and stem.casefold() not in names
        file = folder / "captions" / f"{stem if alone else name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, "".join(caption + "\n" for caption in _captions_of(clip)))


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _write_captions_json(folder: Path, manifest: Manifest, places: Places) -> None:
    captions = {places[clip.path]: _captions_of(clip) for clip in manifest.clips}
    content = {name: several if len(several) > 1 else several[0] for name, several in captions.items()}
    write_file(folder / "captions.json", json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def _write_text_lists(folder: Path, manifest: Manifest, places: Places) -> None:
    lines = [(caption, places[clip.path]) for clip in manifest.clips for caption in _captions_of(clip)]
    write_file(folder / "prompt.txt", "".join(f"{caption}\n" for caption, _ in lines))
    write_file(folder / "videos.txt", "".join(f"videos/{name}\n" for _, name in lines))


def _write_webvid(folder: Path, manifest: Manifest, places: Places) -> None:
    stems = Counter(_stem(name).casefold() for name in places.values())
    rows = []
    for clip in manifest.clips:
        path = PurePosixPath(places[clip.path])
        plain = path.suffix == ".mp4" and stems[_stem(str(path)).casefold()] == 1
        page = "" if str(path.parent) == "." else str(path.parent)
        for caption in _captions_of(clip):
            rows.append(
                {"videoid": path.stem if plain else path.name, "contentUrl": "", "page_dir": page, "name": caption}
            )
    write_file(folder / "webvid.csv", _csv(rows, ["videoid", "contentUrl", "page_dir", "name"], ","))


def _write_manifest(folder: Path, manifest: Manifest, places: Places) -> None:
    clips = [
        replace(clip, path=folder / "videos" / places[clip.path], captions=tuple(_captions_of(clip)))
        for clip in manifest.clips
    ]
    Manifest(folder, "manifest", clips, manifest.left_out).save(folder / "manifest.jsonl")


def _table_writer(suffix: str) -> Callable[[Path, Manifest, Places], None]:
    def write(folder: Path, manifest: Manifest, places: Places) -> None:
        cut = any(clip.source != clip.id for clip in manifest.clips)
        rows: list[dict[str, Any]] = [
            {"video": f"videos/{places[clip.path]}", "caption": caption}
            | ({"start": clip.start, "end": clip.end} if cut else {})
            for clip in manifest.clips
            for caption in _captions_of(clip)
        ]
        file = folder / f"dataset.{suffix}"
        if suffix == "parquet":
            fields = [("video", pa.string()), ("caption", pa.string())]
            fields += [("start", pa.float64()), ("end", pa.float64())] if cut else []
            pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), file)
        elif suffix == "jsonl":
            write_file(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        elif suffix == "json":
            write_file(file, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
        else:
            columns = ["video", "caption", *(("start", "end") if cut else ())]
            write_file(file, _csv(rows, columns, "\t" if suffix == "tsv" else ","))

    return write


def _csv(rows: list[dict[str, Any]], columns: list[str], delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_WRITERS: dict[str, Callable[[Path, Manifest, Places], None]] = {
    "captions_txt": _write_captions_txt,
    "captions_json": _write_captions_json,
    "text_lists": _write_text_lists,
    "webvid": _write_webvid,
    "manifest": _write_manifest,
    **{suffix: _table_writer(suffix) for suffix in TABLES},
}
