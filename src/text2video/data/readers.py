"""One reader for each layout: folders, lists and tables into clips.

A caption never moves to another clip. Lists of different length are an error, a name that fits two files fits none,
and whatever is not used is named with its reason.
"""

import os
import unicodedata
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError
from ..video import PICTURES
from .clips import VIDEOS, Clip, LeftOut, Manifest, clean_caption, clip_id, locate, relative
from .tables import Pairs, Table, read_json, read_lines

CAPTION_COLUMNS = ("caption", "text", "prompt", "name", "captions")
VIDEO_COLUMNS = ("video", "file", "file_name", "filename", "path", "video_path")


class _Gather:
    """Clips as they are found: several captions of one file come together, bad ones are named."""

    def __init__(self, root: Path, layout: str):
        self.root, self.layout = root, layout
        self.clips: dict[str, Clip] = {}
        self.left_out: list[LeftOut] = []

    def leave(self, id: str, reason: str) -> None:
        self.left_out.append(LeftOut(id, reason))

    def take(self, path: Path, value: Any, where: str, start: float | None = None, end: float | None = None) -> None:
        """Adds a caption, or a list of captions, to a file."""
        id = clip_id(relative(path, self.root), start, end)
        known = self.clips[id].captions if id in self.clips else ()
        problems = [] if value != [] else ["no caption"]
        for caption in value if isinstance(value, list) else [value]:
            problem = wrong_with(caption)
            text = "" if problem else clean_caption(caption)
            if problem or text in known:
                problems.append(problem or f"the same caption twice ({text!r:.60})")
            else:
                known = (*known, text)
        for problem in problems:
            self.leave(id, f"{'one caption is not used: ' if known else ''}{problem} ({where})")
        if known:
            self.clips[id] = Clip(id, path, known, start, end)

    def manifest(self) -> Manifest:
        if not self.clips:
            raise DataError(no_clip(self.root, self.layout, self.left_out))
        return Manifest(self.root, self.layout, list(self.clips.values()), self.left_out)


def no_clip(root: Path, layout: str, left_out: list[LeftOut]) -> str:
    """The message for a data set in which nothing can be used."""
    first = "; ".join(f"{id}: {reason}" for id, reason in left_out[:3]) or "it is empty"
    more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    return (
        f"{root}, read as {layout}, has no clip that can be used: {first}{more}. "
        "A clip needs a video file and a caption that is not empty."
    )


def wrong_with(caption: Any) -> str | None:
    """Why a value is no caption, or None."""
    if caption is None or caption != caption:  # null, or the NaN that pandas writes for it
        return "no caption"
    if not isinstance(caption, str):
        return f"the caption is not text ({caption!r:.60})"
    if not caption.strip():
        return "empty caption"
    try:
        caption.encode()
    except UnicodeEncodeError:
        return "the caption holds half a character (a lone surrogate)"
    return None


def scan(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """The files below a folder with these suffixes in any case, by posix path below it (NFC), sorted.

    Hidden files, such as the `._a.mp4` that macOS puts into archives, are not data. A link to a file is followed: what
    stands in the folder was put there; only lists are not trusted to lead out.
    """
    found: dict[str, Path] = {}
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        for name in names:
            path = Path(at, name)
            if not name.startswith(".") and path.suffix.lower() in suffixes and path.is_file():
                found[unicodedata.normalize("NFC", path.relative_to(folder).as_posix())] = path
    return dict(sorted(found.items()))


def stem(name: str) -> str:
    """`sub/a.mp4` -> `sub/a`."""
    return str(PurePosixPath(name).with_suffix(""))


def read_captions_txt(root: Path) -> Manifest:
    """`videos/NAME.mp4` with `captions/NAME.txt`: every line that is not empty is a caption."""
    gather = _Gather(root, "captions_txt")
    videos = scan(root / "videos", VIDEOS | PICTURES)
    texts = {stem(name): path for name, path in scan(root / "captions", frozenset((".txt",))).items()}
    # `captions/a.mp4.txt` goes before `captions/a.txt`: so a.mp4 and a.mov can have a caption each
    chosen = {name: name if name in texts else stem(name) for name in videos}
    claims = Counter(chosen.values())
    for name, path in videos.items():
        file = f"captions/{chosen[name]}.txt"
        id = clip_id(f"videos/{name}")
        if chosen[name] not in texts:
            gather.leave(id, f"no caption file ({file})")
        elif claims[chosen[name]] > 1:
            gather.leave(id, f"its caption file fits several videos ({file}): name this one's captions/{name}.txt")
        else:
            lines = [line for line in read_lines(texts[chosen[name]]) if line.strip()]
            gather.take(path, lines or "", file)
    for name in texts:
        if name not in claims:
            gather.leave(f"captions/{name}.txt", "a caption without a video")
    return gather.manifest()


def read_captions_json(root: Path, file: Path) -> Manifest:
    """`{"NAME.mp4": "caption"}`, or a list of captions; names below `videos/` or the root, with or without suffix."""
    gather = _Gather(root, "captions_json")
    content = read_json(file)
    if not isinstance(content, Pairs):
        raise DataError(
            f'{file} holds no captions by file name: {{"video1.mp4": "caption", ...}} is expected. '
            'A list of objects, [{"video": ..., "caption": ...}], is given as dataset_file.'
        )
    media = scan(root / "videos" if (root / "videos").is_dir() else root, VIDEOS | PICTURES)
    by_stem: dict[str, list[Path]] = {}
    for name, path in media.items():
        by_stem.setdefault(stem(name), []).append(path)

    entries: dict[str, list[Any]] = {}
    paths: dict[str, Path] = {}
    for key, value in content:
        path = _find_key(root, key, media, by_stem)
        if isinstance(path, str):
            gather.leave(key, f"{path} ({file.name})")
            continue
        id = clip_id(relative(path, root))
        paths[id] = path
        entries.setdefault(id, []).append(value)
    for id, values in entries.items():
        if any(value != values[0] for value in values):
            gather.leave(
                id,
                f"different captions under one name ({len(values)} times in {file.name}): which is right? If all are, "
                'give them as a list: {"a.mp4": ["...", "..."]}',
            )
        else:
            gather.take(paths[id], values[0], file.name)
    for path in media.values():
        if (id := clip_id(relative(path, root))) not in entries:
            gather.leave(id, f"no caption in {file.name}")
    return gather.manifest()


def _find_key(root: Path, key: str, media: dict[str, Path], by_stem: dict[str, list[Path]]) -> Path | str:
    """The file a key of captions.json means, or why there is none."""
    name = unicodedata.normalize("NFC", key)
    for spelling in (name, name.removeprefix("videos/")):
        if spelling in media:
            return media[spelling]
    path = locate(root, key, ("videos", "."))
    same = by_stem.get(name, []) if isinstance(path, str) else []
    if len(same) > 1:
        return f"the name fits several videos ({', '.join(path.name for path in same)})"
    return same[0] if same else path


def read_text_lists(root: Path, prompts: Path, videos: Path) -> Manifest:
    """A file of captions and a file of video paths: line N belongs to line N."""
    gather = _Gather(root, "text_lists")
    captions, names = read_lines(prompts), read_lines(videos)
    if len(captions) != len(names):
        raise DataError(
            f"{prompts} has {len(captions)} lines and {videos} has {len(names)}: line N of one belongs to line N of "
            "the other, so both need the same number. A video without a caption keeps an empty line."
        )
    for number, (caption, name) in enumerate(zip(captions, names, strict=True), 1):
        path = locate(root, name, (".", "videos"))
        if isinstance(path, str):
            gather.leave(name or f"{videos.name} line {number}", f"{path} ({videos.name} line {number})")
        else:
            gather.take(path, caption, f"{prompts.name} line {number}")
    return gather.manifest()


def read_columns(
    root: Path, file: Path, table: Table, caption_column: str | None, video_column: str | None
) -> Manifest:
    """A table with a video and a caption column, and `start` and `end` in seconds where it has them.

    Several rows of one file are several captions of it.
    """
    gather = _Gather(root, file.suffix[1:].lower().replace("ndjson", "jsonl"))
    caption_column = _column(file, table, caption_column, CAPTION_COLUMNS, "caption")
    video_column = _column(file, table, video_column, VIDEO_COLUMNS, "video")
    for where, row in table.rows:
        where = f"{file.name} {where}"
        if isinstance(row, str):
            gather.leave(where, f"the row cannot be read (it {row})")
            continue
        name = row.get(video_column)
        path = (
            locate(root, name, (".", "videos"))
            if isinstance(name, str)
            else f"no path in the video column ({name!r:.60})"
        )
        if isinstance(path, str):
            gather.leave(name if name and isinstance(name, str) else where, f"{path} ({where})")
            continue
        try:
            start, end = _stretch(row)
        except (TypeError, ValueError, OverflowError):
            problem = f"from {row.get('start')!r} to {row.get('end')!r}, {where}"
            gather.leave(clip_id(relative(path, root)), f"start and end are no stretch in seconds ({problem})")
        else:
            gather.take(path, row.get(caption_column), where, start, end)
    return gather.manifest()


def read_webvid(root: Path, file: Path, table: Table) -> Manifest:
    """WebVid's table: a row's file is `PAGE_DIR/VIDEOID.mp4` below `videos/` or the root, and `name` its caption."""
    gather = _Gather(root, "webvid")
    for where, row in table.rows:
        where = f"{file.name} {where}"
        if isinstance(row, str):
            gather.leave(where, f"the row cannot be read (it {row})")
            continue
        video = str(row["videoid"] if row["videoid"] is not None else "").strip()
        name = f"{row['page_dir'] or '.'}/{video}"
        # the id of a file that is no MP4 is its whole name
        found = [locate(root, name + suffix, ("videos", ".")) for suffix in (".mp4", "") if video]
        path = next((path for path in found if isinstance(path, Path)), found[0] if found else "no videoid")
        if isinstance(path, str):
            gather.leave(name, f"{path} ({where})")
        else:
            gather.take(path, row["name"], where)
    return gather.manifest()


def usable_columns(table: Table, caption_column: str | None, video_column: str | None) -> bool:
    """Whether a table has a caption and a video column."""
    pairs = ((caption_column, CAPTION_COLUMNS), (video_column, VIDEO_COLUMNS))
    return all(_find_column(table, given, usual) is not None for given, usual in pairs)


def _find_column(table: Table, given: str | None, usual: tuple[str, ...]) -> str | None:
    if given is not None:
        return given if given in table.columns else None
    by_name = {name.lower(): name for name in reversed(table.columns)}
    return next((by_name[name] for name in usual if name in by_name), None)


def _column(file: Path, table: Table, given: str | None, usual: tuple[str, ...], what: str) -> str:
    found = _find_column(table, given, usual)
    if found is None:
        where, row = next(iter(table.rows), ("", {}))
        if isinstance(row, str):
            raise DataError(f"{file}, {where} {row}, and no other row tells its columns. Put the file right.")
        missing = f"no column {given!r}" if given else f"no {what} column of a usual name ({', '.join(usual)})"
        raise DataError(
            f"{file} has {missing}. Its columns are: {', '.join(map(str, table.columns)) or 'none'}. "
            f"Name the right one with {what}_column."
        )
    return found


def _stretch(row: dict[str, Any]) -> tuple[float | None, float | None]:
    """`start` and `end` of a row in seconds. Raises ValueError when they are no stretch of time."""
    values = [row.get(name) for name in ("start", "end")]
    start, end = (None if value in (None, "") or value != value else float(value) for value in values)
    if not 0 <= (start or 0) < (float("inf") if end is None else end):
        raise ValueError
    return start, end
