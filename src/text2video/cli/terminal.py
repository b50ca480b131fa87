"""What the verbs show: results on stdout, and on stderr the progress and what is worth knowing while they work."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


def say(text: object) -> None:
    """A line of the result."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextmanager
def progress(label: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar with rate and remaining time, shown where stderr is a terminal; `report(done, total)` moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task) -> Text:
            return Text(f"{task.speed:.1f} {unit}/s" if task.speed else "")

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # otherwise results that go to a file would end on the terminal
    )
    task = bar.add_task(label, total=None)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def passing_progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that comes with the first report and goes when all is done: for one part of a longer work."""
    with ExitStack() as stack:
        bar: Callable[[int, int], None] | None = None

        def report(done: int, total: int) -> None:
            nonlocal bar
            bar = bar or stack.enter_context(progress(label, unit))
            bar(done, total)
            if done == total:
                stack.close()
                bar = None

        yield report


class Lines(logging.Handler):
    """Log records as plain lines on stderr, above a progress bar where there is one.

    Not those of errors: what is raised is said by the command line itself.
    """

    def emit(self, record: logging.LogRecord) -> None:
        # sys.stderr is looked up each time: a progress bar puts its own in that place
        if record.levelno < logging.ERROR:
            sys.stderr.write(self.format(record) + "\n")


@contextmanager
def log_lines() -> Iterator[None]:
    """What the package logs while it works, as lines on stderr."""
    logger, lines = logging.getLogger("text2video"), Lines()
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(lines)
