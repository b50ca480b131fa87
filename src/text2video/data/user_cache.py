"""The folder for what can be made again: copies of remote files, and what checks have found."""

import os
from pathlib import Path

import platformdirs

FOLDER = "TEXT2VIDEO_CACHE"  # environment variable: names another folder


def user_cache() -> Path:
    """The user's cache folder; it may not be there yet."""
    return Path(os.environ.get(FOLDER) or platformdirs.user_cache_path("text2video")).absolute()
