"""`text2video setup`: the folders of a new data set."""

from pathlib import Path

from .terminal import say


def setup(dir: Path = Path(), /) -> None:
    """Make the folders that a new data set goes into.

    Makes data/videos/, data/captions.json with one example line, and checkpoints/. What is there already stays as
    it is.

    Args:
        dir: Where to make them.
    """
    from ..data.template import setup as make

    made = make(dir)
    for path in made:
        say(path)
    data = dir / "data"
    say(
        f"{'Ready' if made else 'All is there already'}. Put clips into {data / 'videos'}, write what they show into "
        f"{data / 'captions.json'}, then: text2video data check {data}"
    )
