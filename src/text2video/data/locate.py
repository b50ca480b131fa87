"""Finds the files that lists and tables name, and no file outside of the data root.

A list may come from anywhere, so a name that leads out (by `..`, as an absolute path, or through a symbolic link) is
refused. Folders are listed once: a list of a million names costs no look at the disk for each.
"""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..video import is_file
from ..video.members import member_of, tar_index
from . import remote


class Locator:
    """Finds names below one data root; remembers what its folders hold.

    Args:
        root: the data root.
        folders: the folders below the root that names may be relative to, in order.
    """

    def __init__(self, root: Path, folders: Sequence[str] = (".",)):
        self.root, self.folders = root, folders
        self.real_root = root.resolve()
        self.url = remote.url_of(root)  # of a root that is a copy of a remote folder
        self._held: dict[str, list[tuple[Path, set[str]]]] = {}
        self._fetched: dict[str, Path | str] = {}

    def __call__(self, name: str) -> Path | str:
        """The file that a name means, or a sentence why there is none.

        Names written on Windows or macOS are found too. A path may lead into an archive (`video.is_file`). A web
        address is fetched into the cache of remote files; so is a name below a root that is a copy of a remote folder.
        """
        folder, _, base = name.rpartition("/")
        if folder not in self._held:
            straight = ".." not in folder.split("/")  # others are looked at with care
            places = [Path(os.path.normpath(self.root / at / folder)) for at in self.folders] if straight else []
            self._held[folder] = [self._listing(place) for place in places]
        for path, names in self._held[folder]:
            if base in names:
                return path / base
        return self._search(name)

    def prefetch(self, names: Iterable[object]) -> None:
        """Fetches what is remote among the names, several at a time."""
        plain = [name.strip() for name in names if isinstance(name, str)]
        urls = [url for name in plain if (url := self._remote(name)) and url not in self._fetched]
        if urls:
            self._fetched |= remote.fetch_all(urls, self.url)

    def _remote(self, name: str) -> str | None:
        """The address of a name that is not on this machine."""
        if "://" in name:
            return remote.as_url(name)
        if self.url is None or not name or name.startswith("/") or ".." in name.split("/"):
            return None
        return None if is_file(self.root / name) else f"{self.url}/{name}"

    def _listing(self, folder: Path) -> tuple[Path, set[str]]:
        """A folder, or a folder in a tar, and the plain files in it. Links, and what lies outside, go the slow way."""
        try:
            if not folder.resolve().is_relative_to(self.real_root):
                return folder, set()
            if folder.is_dir():
                with os.scandir(folder) as entries:
                    return folder, {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
            member = member_of(folder / "member")
            if member is None or member.archive.suffix.lower() != ".tar":
                return folder, set()
            inside = member.name.rpartition("/")[0]
            split = (name.rpartition("/") for name in tar_index(member.archive).files)
            return folder, {base for at, _, base in split if at == inside}
        except (OSError, ValueError, RuntimeError):
            return folder, set()

    def _search(self, name: str) -> Path | str:
        plain = name.strip()
        if not plain:
            return "no video is named"
        if url := self._remote(plain):
            if url not in self._fetched:
                self._fetched[url] = remote.fetch(url, self.url)
            return self._fetched[url]
        forms = (unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))
        spellings = dict.fromkeys((name, plain, *forms, plain.replace("\\", "/")))
        try:
            for folder in self.folders:
                for spelling in spellings:
                    path = Path(os.path.normpath(self.root / folder / spelling))
                    if not path.resolve().is_relative_to(self.real_root):
                        return (
                            "the path leads out of the data root, and files outside are not read "
                            f"({name} from {self.root})"
                        )
                    if is_file(path):
                        return path
        except (OSError, ValueError, RuntimeError):  # too long, a NUL inside, a loop of links
            return f"not the path of a file ({name!r:.80})"
        return "the file is missing"
