"""`text2video data polish`: captions in a language model's words."""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from .answering import Answering, read_template, show
from .sources import ANYWHERE, Source
from .terminal import progress


def polish(
    data: Path,
    out: Path,
    /,
    *,
    answering: Answering,
    source: Source = ANYWHERE,
    layout: str | None = None,
    template: str | None = None,
    use: Literal["new", "original", "both"] = "new",
) -> None:
    """Let a language model rewrite the captions of a data set.

    Written is a manifest with the captions, which train reads by --dataset_file, and beside it the answers, from which
    a stopped job goes on. The data set itself is not changed.

    Args:
        data: The data set's folder or table.
        out: The manifest to write, NAME.jsonl or NAME.parquet.
        layout: How the data set lies on disk; found out when not given.
        template: The prompt, or a .txt file with it; {caption}, {duration} and {name} are filled in.
        use: Captions for training: new, original or both.
    """
    from ..data import captions
    from ..data.uncaptioned import read_captioned

    manifest = read_captioned(data, layout=layout, out=out, **asdict(source))
    prompt = captions.POLISH_TEMPLATE if template is None else read_template(template)
    captions.template_fields(prompt)  # before a model is loaded for nothing
    answerer = answering.open(sees=False)
    with progress("polishing", "captions") as report:
        outcome = captions.polish(manifest, out, answerer, template=prompt, use=use, on_done=report)
    show(outcome, out)
