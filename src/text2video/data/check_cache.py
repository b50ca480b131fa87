"""What examining a file has found, remembered in the user's cache folder: what has not changed is not decoded again.

An entry holds for a path, its size and time of change, and the version of the examination and of the decoder. A kill
loses the last second at most, and several processes may use one file.
"""

import json
import logging
import sqlite3
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..video.members import member_of
from .findings import VERSION, Part
from .user_cache import FOLDER, user_cache

_KIND = f"{VERSION}, av {version('av')}"
_FLUSH = 1.0  # seconds
_BUSY = 10.0  # seconds to wait for another process

logger = logging.getLogger("text2video")


def cache_file() -> Path:
    """Where it is remembered by default."""
    return user_cache() / "checks.sqlite"


class CheckCache:
    """Remembers what `findings.examine` answered.

    A cache that cannot be used is said once and done without.

    Args:
        path: its file; None remembers nothing.
    """

    def __init__(self, path: Path | None):
        self._base: sqlite3.Connection | None = None
        self._stamps: dict[Path, tuple[int, int]] = {}
        self._waiting: list[tuple[Any, ...]] = []
        self._flushed = time.monotonic()
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=_BUSY)
            with self._base:
                self._base.execute(
                    "CREATE TABLE IF NOT EXISTS files "
                    "(path TEXT PRIMARY KEY, size INTEGER, changed INTEGER, kind TEXT, answer TEXT) WITHOUT ROWID"
                )
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def get(self, path: Path, parts: list[Part], thumbnails: bool) -> dict[str, Any] | None:
        """The answer for these parts of a file, when it is known and the file has not changed."""
        try:
            member = member_of(path)
            stat = (member.archive if member else path).stat()
        except OSError:
            return None
        self._stamps[path] = stat.st_size, stat.st_mtime_ns  # before it is decoded: it may change meanwhile
        known = self._known(path)
        if known is None or "reason" in known:
            return known
        looks = [known["looks"].get(_name(part), {}) for part in parts]
        if any(look == {} or (thumbnails and look and not look["thumbnail"]) for look in looks):
            return None
        return {"info": known["info"], "looks": looks}

    def put(self, path: Path, parts: list[Part], answer: dict[str, Any]) -> None:
        """Remembers an answer beside those for other parts of the file."""
        stamp = self._stamps.get(path)
        if stamp is None or self._base is None:
            return
        if "reason" not in answer:
            before = self._known(path) or {}
            looks = before.get("looks", {}) | dict(zip(map(_name, parts), answer["looks"], strict=True))
            answer = {"info": answer["info"], "looks": looks}
        self._waiting.append((str(path), *stamp, _KIND, json.dumps(answer)))
        if time.monotonic() > self._flushed + _FLUSH:
            self._flush()

    def close(self) -> None:
        """Writes what is left to write."""
        self._flush()
        if self._base is not None:
            self._base.close()
            self._base = None

    def _known(self, path: Path) -> dict[str, Any] | None:
        if self._base is None:
            return None
        question = "SELECT answer FROM files WHERE path = ? AND size = ? AND changed = ? AND kind = ?"
        try:
            row = self._base.execute(question, (str(path), *self._stamps[path], _KIND)).fetchone()
            return json.loads(row[0]) if row else None
        except (sqlite3.Error, ValueError) as error:
            return self._give_up(error)

    def _flush(self) -> None:
        if self._base is not None and self._waiting:
            try:
                with self._base:
                    self._base.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", self._waiting)
            except sqlite3.Error as error:
                self._give_up(error)
        self._waiting, self._flushed = [], time.monotonic()

    def _give_up(self, error: Exception) -> None:
        logger.warning(
            "What a check finds is not remembered: %s. %s names a folder that can be written.", error, FOLDER
        )
        if self._base is not None:
            self._base.close()
        self._base = None


def _name(part: Part) -> str:
    return json.dumps(part)
