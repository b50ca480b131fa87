"""`text2video data convert`: the same clips and captions in another layout."""

import shutil
from dataclasses import asdict
from pathlib import Path

from cyclopts.types import PositiveInt

from .sources import ANYWHERE, Source
from .terminal import log_lines, progress, say


def convert(
    data: str,
    out: Path,
    /,
    *,
    layout: str,
    source: Source = ANYWHERE,
    from_layout: str | None = None,
    split: str = "train",
    max_samples: PositiveInt | None = None,
    link: bool = False,
) -> None:
    """Write a data set anew, in another layout.

    What cannot be used is left out, and named. The data set itself is not changed.

    Args:
        data: The data set's folder, table, shard or TOML file, its address (https://, s3://), or hf:NAME for the Hub.
        out: A new folder.
        layout: captions_txt, captions_json, text_lists, pairs, csv, tsv, json, jsonl, parquet, metadata, webvid,
            webdataset, huggingface, diffusion_pipe, musubi_tuner or manifest.
        from_layout: How the data set lies on disk; found out when not given.
        split: Of hf:NAME.
        max_samples: Use the first clips only; of hf:NAME the first rows.
        link: Hard links in place of copies, where the file system has them.
    """
    from ..data.export import can_write
    from ..data.layouts import read_layout, write_layout
    from ..data.streaming import open_stream, take_stream

    can_write(out, layout)
    streamed = data.startswith("hf:")
    rows = out.with_name(f"{out.name}.rows")  # of a stream: it is there until all is written
    with log_lines(), progress("fetching", "rows") as report:
        if streamed:
            name = data.removeprefix("hf:")
            manifest = take_stream(
                open_stream(name, split),
                rows,
                source=f"{data}, split {split}",
                home=Path(name).absolute() if Path(name).exists() else None,
                max_samples=max_samples,
                caption_column=source.caption_column,
                video_column=source.video_column,
                on_done=lambda done: report(done, max_samples),
            )
        else:
            manifest = read_layout(data, layout=from_layout, **asdict(source))
            manifest.clips[max_samples or len(manifest) :] = []
    write_layout(manifest, out, layout, link=link or streamed)
    if streamed:
        shutil.rmtree(rows)
    for note in manifest.notes:
        say(note)
    for name, reason in manifest.left_out:
        say(f"left out {name}: {reason}")
    say(f"{len(manifest)} clips from {manifest.layout} to {layout} in {out}")
