"""A tiny model of each family, made once, and a few clips to train on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from text2video.data import shapes


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A function: maker of a tiny model, `make(folder)` -> the folder of that model, made once."""
    folders: dict[Callable[[Path], object], Path] = {}

    def folder(make: Callable[[Path], object]) -> Path:
        if make not in folders:
            folders[make] = tmp_path_factory.mktemp("families") / make.__name__
            make(folders[make])
        return folders[make]

    return folder


@pytest.fixture(scope="session")
def few_clips(tmp_path_factory) -> Path:
    """Six clips of nine frames of 32x32 pixels, with captions."""
    folder = tmp_path_factory.mktemp("clips") / "data"
    shapes.write(folder, 6, 0, 9, size=32)
    return folder
