"""The report of a check as one HTML page, with thumbnails, that a person sorts and filters; it needs no network."""

import base64
import io
import json
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from .checks import Fate, Report
from .clips import write_file
from .flags import KINDS

TEMPLATE = Path(__file__).parents[1] / "assets" / "check.html"

_PICTURES = 30_000_000  # bytes of all thumbnails together
_LEAST = 600  # bytes of a thumbnail that still shows something
_ROWS = 50_000  # clips on a page


def write_page(report: Report, path: str | Path) -> None:
    """Writes the page. Of more than 50,000 clips it holds those left out, then the odd ones, then others.

    Thumbnails are those of the fates; where they are too many together they become smaller.
    """
    fates = report.fates
    if len(fates) > _ROWS:
        fates = sorted(fates, key=lambda fate: (fate.kept, not fate.flags))[:_ROWS]
    pictures = sum(fate.thumbnail is not None for fate in fates)
    budget = _PICTURES // max(pictures, 1)
    data = {
        "root": str(report.manifest.root),
        "layout": report.manifest.layout,
        "settings": report.settings,
        "counts": report.counts(),
        "found": report.found(),
        "kinds": KINDS,
        "not_shown": len(report.fates) - len(fates),
        "clips": [_row(fate, budget) for fate in fates],
    }
    # so that nothing in a caption ends the script, whatever it holds
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    write_file(path, Template(TEMPLATE.read_text(encoding="utf-8")).substitute(data=text))


def _row(fate: Fate, budget: int) -> dict[str, Any]:
    row = {
        "id": fate.id,
        "kept": fate.kept,
        "kind": fate.kind,
        "fate": fate.fate,
        "flags": fate.flags,
        "captions": fate.captions,
        "shots": fate.shots,
        "picture": fate.thumbnail and smaller(fate.thumbnail, budget),
    }
    names = ("width", "height", "frames", "fps", "duration", "codec", "brightness", "motion")
    return row | {name: getattr(fate, name) for name in names}


def smaller(thumbnail: str, budget: int) -> str | None:
    """A WebP in base64 of at most `budget` bytes, decoded; None where that would show nothing."""
    content = base64.b64decode(thumbnail)
    if len(content) <= budget:
        return thumbnail
    with Image.open(io.BytesIO(content)) as image:
        while len(content) > budget >= _LEAST and image.height > 8:
            image = image.resize((max(1, image.width * 2 // 3), max(1, image.height * 2 // 3)))
            file = io.BytesIO()
            image.save(file, "WEBP", quality=30)
            content = file.getvalue()
    return base64.b64encode(content).decode() if len(content) <= budget else None
