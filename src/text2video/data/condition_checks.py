"""Whether the conditions of clips can be read, found out before anything is trained, as of the clips themselves."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import DataError, VideoError
from ..video import VideoInfo, View
from .checks import examined
from .clips import Clip, LeftOut
from .conditions import Source
from .watch import examine_all


def unreadable(
    clips: Sequence[Clip],
    sources: Mapping[str, Source],
    cache: Path | None = None,
    on_done: Callable[[int, int], None] | None = None,
) -> list[LeftOut]:
    """The clips that have a condition which cannot be read, with the reason.

    Pictures, videos and sounds are decoded in watched processes; a clip's own pictures have been, by `checks.check`.

    Args:
        cache: remembers what was found in pictures and videos, see `check_cache`.
        on_done: called with (files, of how many) while those of a condition are examined.
    """
    found: dict[str, str] = {}
    for name, source in sources.items():
        for id, reason in _reasons(clips, source, cache, on_done).items():
            found.setdefault(id, f"its condition {name} cannot be used: {reason}")
    return [LeftOut(id, reason) for id, reason in found.items()]


def _reasons(
    clips: Sequence[Clip], source: Source, cache: Path | None, on_done: Callable[[int, int], None] | None
) -> dict[str, str]:
    """Clip id -> why what the source says of it cannot be read."""
    files = {clip.id: clip.path if source.values is None else source.values[clip.id] for clip in clips}
    if source.media == "value":
        return {id: reason for id in files if (reason := _unread(source, id))}
    count = len(set(files.values()))
    report = (lambda done: on_done(done, count)) if on_done else None
    if source.media == "pictures" and source.values is not None:
        as_clips = [Clip(str(path), path, ()) for path in dict.fromkeys(files.values())]
        infos = {id: info for id, (info, _) in examined(as_clips, cache, on_done=report).items()}
        return {id: str(info) for id, path in files.items() if not isinstance(info := infos[str(path)], VideoInfo)}
    if source.media == "sound":
        paths = list(dict.fromkeys(files.values()))
        answers = dict(zip(paths, examine_all(paths, on_done=report, examine="text2video.video:listen"), strict=True))
        return {id: reason for id, path in files.items() if isinstance(reason := answers[path], str)}
    return {}


def _unread(source: Source, id: str) -> str | None:
    try:
        source.of(id, View(1, 1, 1))  # values are the same whatever is seen of the clip
    except Exception as error:  # a user's own condition may answer with any error
        return str(error) if isinstance(error, DataError | VideoError) else repr(error)
    return None
