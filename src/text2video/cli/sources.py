"""The options that say where a data set is and how it lies there, the same for every verb that reads one."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class Source:
    """Where captions and videos are, when the folder alone does not say it.

    Args:
        caption_file: JSON of {video name: caption}.
        data_root: Folder that listed paths are relative to.
        dataset_file: Table, tar shard or TOML description of clips.
        caption_column: Caption column, or text file of captions in data_root.
        video_column: Video column, or text file of paths in data_root.
    """

    caption_file: Path | None = None
    data_root: Path | None = None
    dataset_file: Path | None = None
    caption_column: str | None = None
    video_column: str | None = None


ANYWHERE = Source()
