"""Writes a manifest's clips and captions as a new data set, in any layout, so that reading it gives them back.

Several captions of a clip are several lines, list entries or rows. Captions are single lines everywhere: a line break
inside one becomes a space. Layouts that cannot hold a thing refuse it in words, before anything is written.
"""

import os
import re
import shutil
from pathlib import Path, PurePosixPath

import pyarrow as pa

from ..errors import DataError, UsageError
from ..video import inner_name, open_file
from ..video.members import member_of
from .clips import Manifest
from .writers import ARCHIVED, ONE_CAPTION, STRETCHES, TABLES, UNIQUE_STEMS, WRITERS, Export

__all__ = ["TABLES", "write_layout"]


def write_layout(manifest: Manifest, folder: str | Path, layout: str, *, link: bool = False) -> None:
    """Writes the clips into a new folder in a layout, with the files as they are: copied to `videos/`, or in archives.

    Clips that were left out are not written; the manifest layout keeps their names and reasons.

    Args:
        manifest: what to write.
        folder: must not exist, or be empty. It appears whole or not at all.
        layout: captions_txt, captions_json, text_lists, pairs, webvid, metadata, webdataset, huggingface,
            diffusion_pipe, musubi_tuner, manifest, or a table: csv (also as `table`), tsv, json, jsonl, parquet.
        link: hard links instead of copies where the file system can: no space is used, and a change to one file is
            a change to both.

    Raises:
        UsageError: the layout is unknown.
        DataError: the folder is not empty or cannot be written, or the layout cannot hold the clips.
    """
    layout, folder = can_write(folder, layout)
    _refuse(manifest, layout)
    unfinished = folder.with_name(f".tmp-{os.getpid()}-{folder.name}")
    try:
        places = _places(manifest, layout)
        unfinished.mkdir(parents=True)
        if layout not in ARCHIVED:
            for source, place in places.items():
                _copy(source, unfinished / "videos" / place, link)
        WRITERS[layout](Export(unfinished, folder, manifest, places))
        if folder.exists():
            folder.rmdir()
        unfinished.replace(folder)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{folder} cannot be written: {reason} ({getattr(error, 'filename', None) or folder}). "
            "Check the path and the free space."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def can_write(folder: str | Path, layout: str) -> tuple[str, Path]:
    """The layout and the whole path of the folder, where it can be written there; errors as `write_layout`."""
    layout = "csv" if layout == "table" else layout
    if layout not in WRITERS:
        raise UsageError(f"There is no layout {layout!r} to write. There are {', '.join(WRITERS)}.")
    folder = Path(os.path.normpath(Path(folder).absolute()))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not empty, and nothing in it is overwritten. Name a new folder.")
    return layout, folder


def _refuse(manifest: Manifest, layout: str) -> None:
    """Says what a layout cannot hold, and which can."""
    cut = next((clip.id for clip in manifest.clips if clip.source != clip.id), None)
    if cut and layout not in STRETCHES:
        raise DataError(
            f"{layout} cannot say that a clip is a stretch of a longer file, as {cut} is. "
            f"Write one of {', '.join(STRETCHES)}."
        )
    several = next((clip for clip in manifest.clips if len(clip.captions) > 1), None)
    if several and layout in ONE_CAPTION:
        others = [name for name in WRITERS if name not in ONE_CAPTION]
        raise DataError(
            f"{layout} holds one caption a clip, and {several.id} has {len(several.captions)}. "
            f"Write one of {', '.join(others)}."
        )


def _places(manifest: Manifest, layout: str) -> dict[Path, str]:
    """Where each file goes below `videos/`: where it was, unless that place is taken (in any case of letters)."""
    places: dict[Path, str] = {}
    taken: set[str] = set()
    for clip in manifest.clips:
        if clip.path in places:
            continue
        path = _name(clip.path, manifest.root)
        place, number = path, 2
        while (claims := _claims(place, layout)) & taken:
            place, number = path.with_stem(f"{path.stem}-{number}"), number + 1
        if layout == "text_lists" and ("\n" in str(place) or "\r" in str(place)):
            raise DataError(
                f"text_lists cannot hold the file name {str(place)!r}: it has a line break. Rename the file."
            )
        taken |= claims
        places[clip.path] = str(place)
    return places


def _claims(place: PurePosixPath, layout: str) -> set[str]:
    """The names that a file takes for itself: where captions go by its name without suffix, that too."""
    return {str(p).casefold() for p in ((place, place.with_suffix("")) if layout in UNIQUE_STEMS else (place,))}


def _name(path: Path, root: Path) -> PurePosixPath:
    """What a file is called, below its data root or in its archive, without `videos/`."""
    inner, inside = inner_name(path), path.is_relative_to(root)
    member = member_of(path)
    if inner and member and member.archive.suffix.lower() == ".tar":
        inner = re.sub("%(2E|25)", lambda code: chr(int(code[1], 16)), inner)  # as the writer of shards has put it
    name = PurePosixPath(inner or (path.relative_to(root).as_posix() if inside else path.name))
    return name.relative_to("videos") if name.parts[0] == "videos" and len(name.parts) > 1 else name


def _copy(source: Path, place: Path, link: bool) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(source.resolve(), place)
            return
        except OSError:  # another disk, a file system without links, or a member of an archive
            pass
    with open_file(source) as file, place.open("wb") as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
