"""Ctrl-C during a run: the first one is a wish, the second an order."""

import logging
import signal
import threading
import types

logger = logging.getLogger("text2video")


class Interrupt:
    """Within it, the first Ctrl-C is noted, and the loop ends after its step; the second one ends it at once.

    Outside of the main thread, which alone gets signals, it notes nothing.
    """

    def __init__(self) -> None:
        self.noted = False

    def __enter__(self) -> None:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True
        logger.warning("Stopping after this step, with a checkpoint. Ctrl-C once more stops at once, without one.")
