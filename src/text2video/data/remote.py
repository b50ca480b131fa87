"""Remote files, fetched once into a local cache, so that training reads local files only.

fsspec speaks the protocols and finds the credentials. A file lies in the cache under its own address:
`CACHE/https/HOST/PATH`. It is written beside its place, compared in size, then renamed: what is there is whole, and
is not asked for again. The cache is `TEXT2VIDEO_CACHE`, else the user's cache folder of the system.
"""

import ipaddress
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import DataError
from .user_cache import user_cache

log = logging.getLogger(__name__)

PROTOCOLS = frozenset(("http", "https", "s3", "gs", "gcs", "az", "abfs", "hf"))
_WEB = ("http", "https")
_WORKERS = 16
_PAUSES = (0.2, 1.0)  # seconds, before one more try
_UNSAFE = re.compile(r'[<>:"|?*\\%\x00-\x1f]')  # in a file name, on some system


def as_url(value: str | Path) -> str | None:
    """The address that a name is, or None. `Path` writes `s3://a` as `s3:/a`: that is meant too."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?=[^/])", str(value).replace(os.sep, "/"))
    return f"{match[1].lower()}://{str(value).replace(os.sep, '/')[match.end() :]}" if match else None


def url_of(path: Path) -> str | None:
    """The address of a file or folder in the cache; None for any other."""
    cache = cache_dir()
    if not str(path).startswith(str(cache)) or not path.is_relative_to(cache) or path == cache:
        return None
    parts = [unquote(part) for part in path.relative_to(cache).parts]
    if "?" in parts[-1]:  # the name ends in the suffix once more
        parts[-1] = parts[-1].removesuffix(PurePosixPath(parts[-1].split("?")[0]).suffix)
    return f"{parts[0]}://{'/'.join(parts[1:])}"


def fetch(url: str, trusted: str | None = None) -> Path | str:
    """The local copy of a remote file, fetched when it is not there; or a sentence why there is none.

    Args:
        url: as it stands in a list, which may come from anywhere.
        trusted: an address that the user gave: its host may be on a private network.

    Raises:
        DataError: the package for this protocol is not installed.
    """
    place = _place(url)
    if isinstance(place, str):
        return place
    if place.is_file():
        return place
    if problem := _private(url, trusted):
        return problem
    beside = place.with_name(f".tmp-{os.getpid()}-{threading.get_ident()}")
    reason = ""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        for pause in (*_PAUSES, None):
            try:
                system, name = _open_system(url)
                size = system.info(name).get("size")
                system.get_file(name, str(beside))
                if size is None or beside.stat().st_size == size:
                    beside.replace(place)
                    return place
                reason = f"{beside.stat().st_size} of {size} bytes arrived"
            except DataError:
                raise
            except Exception as error:  # each protocol has errors of its own
                reason = " ".join(f"it cannot be fetched ({type(error).__name__}: {error})".split())
                if isinstance(error, FileNotFoundError | PermissionError):
                    break
            if pause is not None:
                time.sleep(pause)
    except OSError as error:
        reason = f"the cache cannot be written ({error})"
    finally:
        beside.unlink(missing_ok=True)
    return reason


def fetch_all(urls: Iterable[str], trusted: str | None = None) -> dict[str, Path | str]:
    """`fetch` for many addresses, several at a time; how far it is goes to the log."""
    wanted = list(dict.fromkeys(urls))
    began = said = time.monotonic()
    found: dict[str, Path | str] = {}
    with ThreadPoolExecutor(_WORKERS) as pool:
        jobs = {pool.submit(fetch, url, trusted): url for url in wanted}
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                found[jobs[job]] = job.result()
                if (now := time.monotonic()) - said > 5:
                    rate, said = done / (now - began), now
                    log.info(
                        "fetched %d of %d files, %.1f a second, %.0f s left",
                        *(done, len(wanted), rate, (len(wanted) - done) / rate),
                    )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def mirror(url: str, suffixes: frozenset[str]) -> tuple[Path, list[tuple[str, str]]]:
    """The local copy of a remote file, or of a folder's files with these suffixes; and what could not be fetched, why.

    Raises:
        DataError: the address is refused, or nothing is there.
    """
    url = url.rstrip("/")
    place = _place(url)
    if isinstance(place, str):
        raise DataError(f"{url} cannot be read: {place}.")
    if place.is_file() or url.startswith(_WEB):
        found = fetch(url, trusted=url)
        if isinstance(found, str):
            hint = " A folder on the web has no list of files: give a table or a tar." if url.startswith(_WEB) else ""
            raise DataError(f"{url} cannot be read: {found}.{hint}")
        return found, []
    try:
        system, name = _open_system(url)
        files = system.find(name)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{url} cannot be listed ({type(error).__name__}: {error}). Check address and access."
        ) from error
    if not files:
        raise DataError(f"{url} holds no file. Check the address.")
    top = name.rstrip("/")
    if files == [name]:
        found = fetch(url, trusted=url)
        if isinstance(found, str):
            raise DataError(f"{url} cannot be read: {found}.")
        return found, []
    wanted = {
        f"{url}/{inner}": inner
        for file in files
        if (inner := file.removeprefix(top).lstrip("/")) and PurePosixPath(inner).suffix.lower() in suffixes
    }
    found = fetch_all(wanted, trusted=url)
    place.mkdir(parents=True, exist_ok=True)
    return place, [(wanted[url], answer) for url, answer in found.items() if isinstance(answer, str)]


def cache_dir() -> Path:
    """Where remote files are kept."""
    return user_cache() / "remote"


def _place(url: str) -> Path | str:
    """Where an address lies in the cache, or why it is not fetched: addresses come from lists that anybody wrote."""
    protocol, _, rest = url.partition("://")
    more = frozenset(os.environ.get("TEXT2VIDEO_PROTOCOLS", "").split()) - {"file", "local"}
    if "::" in url:
        return "chained addresses are not fetched"
    if protocol not in PROTOCOLS | more:
        allowed = ", ".join(sorted(PROTOCOLS | more))
        return f"{protocol}:// is not fetched, only {allowed} (and those named in TEXT2VIDEO_PROTOCOLS)"
    path, mark, query = rest.partition("?") if protocol in _WEB else (rest, "", "")
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "an address with empty, . or .. parts is not fetched"
    if "@" in parts[0] and protocol in _WEB:
        return "an address with a user or password inside is not fetched"
    if query:
        parts[-1] += f"{mark}{query.replace('/', '%2F')}{PurePosixPath(parts[-1]).suffix}"
    names = [_UNSAFE.sub(lambda sign: f"%{ord(sign[0]):02X}", part) for part in (protocol, *parts)]
    if any(len(name.encode()) > 200 for name in names):
        return "the address is too long to become the name of a file"
    return cache_dir().joinpath(*names)


def _private(url: str, trusted: str | None) -> str | None:
    """Why an address in a private network is not fetched: a list from elsewhere has no business there."""
    if not url.startswith(_WEB) or os.environ.get("TEXT2VIDEO_PRIVATE_ADDRESSES") == "1":
        return None
    host = urlsplit(url).hostname or ""
    if trusted and urlsplit(trusted).hostname == host:
        return None
    if _is_private(host):
        return f"{host} is an address in a private network (TEXT2VIDEO_PRIVATE_ADDRESSES=1 allows them)"
    return None


@lru_cache(maxsize=4096)
def _is_private(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False  # fetching it will say what is wrong
    return any(not ipaddress.ip_address(str(entry[4][0]).split("%")[0]).is_global for entry in found)


def _open_system(url: str) -> tuple[Any, str]:
    """(file system, name in it)."""
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    try:
        if url.startswith(_WEB):
            import aiohttp

            # a large file takes its time, but one that says nothing for a minute is given up
            options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)}
        return url_to_fs(url, **options)
    except ImportError as error:
        raise DataError(
            f"{url} needs a package that is not installed ({error}). "
            "`pip install text2video[remote]` brings what http and https need; s3:// needs s3fs, gs:// needs gcsfs."
        ) from error
