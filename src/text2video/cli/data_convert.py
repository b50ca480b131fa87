"""`text2video data convert`: the same clips and captions in another layout."""

from dataclasses import asdict
from pathlib import Path

from .sources import ANYWHERE, Source
from .terminal import say


def convert(
    data: Path,
    out: Path,
    /,
    *,
    layout: str,
    source: Source = ANYWHERE,
    from_layout: str | None = None,
    link: bool = False,
) -> None:
    """Write a data set anew, in another layout.

    What cannot be used is left out, and named. The data set itself is not changed.

    Args:
        data: The data set's folder or table.
        out: A new folder.
        layout: captions_txt, captions_json, text_lists, csv, tsv, json, jsonl, parquet, webvid or manifest.
        from_layout: How the data set lies on disk; found out when not given.
        link: Hard links in place of copies, where the file system has them.
    """
    from ..data.layouts import read_layout, write_layout

    manifest = read_layout(data, layout=from_layout, **asdict(source))
    write_layout(manifest, out, layout, link=link)
    for name, reason in manifest.left_out:
        say(f"left out {name}: {reason}")
    say(f"{len(manifest)} clips from {manifest.layout} to {layout} in {out}")
