"""Layouts made of folders, text files and captions.json."""

import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...video import PICTURES
from ..clips import VIDEOS, Manifest, clip_id, relative
from ..locate import Locator
from ..tables import Pairs, read_json, read_lines, read_text
from .gather import Gather, scan, stem


def read_captions_txt(root: Path) -> Manifest:
    """`videos/NAME.mp4` with `captions/NAME.txt`: every line that is not empty is a caption."""
    gather = Gather(root, "captions_txt")
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
    gather = Gather(root, "captions_json")
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

    locate = Locator(root, ("videos", "."))
    entries: dict[str, list[Any]] = {}
    paths: dict[str, Path] = {}
    for key, value in content:
        path = _find_key(locate, key, media, by_stem)
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


def _find_key(locate: Locator, key: str, media: dict[str, Path], by_stem: dict[str, list[Path]]) -> Path | str:
    """The file a key of captions.json means, or why there is none."""
    name = unicodedata.normalize("NFC", key)
    for spelling in (name, name.removeprefix("videos/")):
        if spelling in media:
            return media[spelling]
    path = locate(key)
    same = by_stem.get(name, []) if isinstance(path, str) else []
    if len(same) > 1:
        return f"the name fits several videos ({', '.join(path.name for path in same)})"
    return same[0] if same else path


def read_text_lists(root: Path, prompts: Path, videos: Path) -> Manifest:
    """A file of captions and a file of video paths: line N belongs to line N."""
    gather = Gather(root, "text_lists")
    locate = Locator(root, (".", "videos"))
    captions, names = read_lines(prompts), read_lines(videos)
    if len(captions) != len(names):
        raise DataError(
            f"{prompts} has {len(captions)} lines and {videos} has {len(names)}: line N of one belongs to line N of "
            "the other, so both need the same number. A video without a caption keeps an empty line."
        )
    locate.prefetch(names)
    for number, (caption, name) in enumerate(zip(captions, names, strict=True), 1):
        path = locate(name)
        if isinstance(path, str):
            gather.leave(name or f"{videos.name} line {number}", f"{path} ({videos.name} line {number})")
        else:
            gather.take(path, caption, f"{prompts.name} line {number}")
    return gather.manifest()


def read_pairs(root: Path) -> Manifest:
    """`NAME.mp4` and `NAME.txt` side by side, in nested folders too; the whole text is one caption."""
    gather = Gather(root, "pairs")
    texts = scan(root, frozenset((".txt",)))
    take_pairs(gather, scan(root, VIDEOS | PICTURES), {stem(name): path for name, path in texts.items()})
    return gather.manifest()


def take_pairs(gather: Gather, media: dict[str, Path], texts: dict[str, Path]) -> None:
    """Puts media (by name) and texts (by name without `.txt`) together. A text that fits two files fits none."""
    chosen = {name: name if name in texts else stem(name) for name in media}  # `a.mp4.txt` goes before `a.txt`
    claims = Counter(chosen.values())
    for name, path in media.items():
        id, text = clip_id(relative(path, gather.root)), texts.get(chosen[name])
        if text is None:
            gather.leave(id, f"no caption file ({Path(chosen[name]).name}.txt beside it)")
        elif claims[chosen[name]] > 1:
            gather.leave(id, f"its caption file fits several videos ({text.name}): name this one's {path.name}.txt")
        else:
            gather.take(path, read_text(text), text.name)


def has_pairs(root: Path) -> bool:
    """Whether some video or picture has a text of its name beside it."""
    texts = {stem(name) for name in scan(root, frozenset((".txt",)))}
    return bool(texts) and any(name in texts or stem(name) in texts for name in scan(root, VIDEOS | PICTURES))
