"""Makes the folders that a new data set goes into."""

import json
from pathlib import Path

from ..errors import DataError
from .clips import write_file

_EXAMPLE = {"example.mp4": "REPLACE THIS LINE: left the name of a file in videos/, right what it shows, in a sentence."}


def setup(folder: str | Path = ".") -> list[Path]:
    """Makes `data/videos/`, `data/captions.json` and `checkpoints/` in a folder, and leaves what is there as it is.

    The captions file holds one example. Its video does not exist, so it is reported and never trained on.

    Returns:
        The paths that were made: none when all were there.

    Raises:
        DataError: the folder cannot be written.
    """
    folder = Path(folder)
    made = []
    try:
        for path in (folder / "data" / "videos", folder / "checkpoints"):
            if not path.is_dir():
                path.mkdir(parents=True)
                made.append(path)
        captions = folder / "data" / "captions.json"
        if not captions.exists():
            write_file(captions, json.dumps(_EXAMPLE, indent=2) + "\n")
            made.append(captions)
    except OSError as error:
        raise DataError(f"{folder} cannot be set up: {error.strerror or error} ({error.filename}).") from error
    return made
