"""`text2video models`: the models that go by a name."""

from ..shipped import PLACE, SHIPPED
from .terminal import say


def models() -> None:
    """List the models that go by a name, and which of them are on this machine.

    Memory is that of the denoiser's weights in 16 bits; `text2video plan` says what training and sampling need.
    """
    from ..families.catalog import on_this_machine, published

    rows = [("MODEL", "FAMILY", "TASKS", "LICENCE", "DISK", "MEMORY", "HERE")]
    size = sum(file.stat().st_size for file in PLACE.rglob("*")) / 1e9
    rows.append((str(SHIPPED), "native", "text", "Apache-2.0", f"{size:.2f} GB", f"{size:.2f} GB", "yes"))
    for family, model in published():
        tasks = ", ".join(task.replace("-to-video", "") for task in model.tasks)
        disk = f"{model.gigabytes:g} GB" if model.gigabytes else "?"
        memory = f"{2 * model.billions:.1f} GB"
        parts = model.parts.values()
        here = on_this_machine(model.repository) and all(on_this_machine(part, "config.json") for part in parts)
        name = " + ".join((model.repository, *parts))
        rows.append((name, family, tasks, model.licence, disk, memory, "yes" if here else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
    say("\nFetch one by `hf download MODEL`; then its name is enough: text2video generate --model MODEL")
