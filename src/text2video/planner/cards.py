"""What common cards can do by their makers' data sheets, and what this machine can."""

import time
from dataclasses import dataclass

import torch

from ..errors import UsageError

GB = 10**9


@dataclass(frozen=True)
class Card:
    """A device to compute on. Rates are dense peaks, with sums in float32.

    Args:
        memory: bytes.
        half, single: floating point operations a second in bfloat16 (or float16) and in float32.
        bandwidth: bytes a second.
        matrix_share, bandwidth_share: of them that training is taken to reach.
    """

    name: str
    memory: float
    half: float
    single: float
    bandwidth: float
    matrix_share: float = 0.5
    bandwidth_share: float = 0.7

    def rate(self, bytes_per_number: int) -> float:
        """Floating point operations a second that training is taken to reach."""
        return self.matrix_share * (self.half if bytes_per_number <= 2 else self.single)

    @property
    def reached_bandwidth(self) -> float:
        """Bytes a second that training is taken to reach."""
        return self.bandwidth_share * self.bandwidth


def _card(name: str, gigabytes: float, half: float, single: float, bandwidth: float) -> Card:
    return Card(name, gigabytes * GB, half * 1e12, single * 1e12, bandwidth * GB)


# NVIDIA's data sheets and architecture whitepapers. GeForce cards multiply float16 at half their advertised rate when
# the sums are float32, as in training.
CARDS = {
    card.name: card
    for card in (
        #     name            GB  TFLOP/s: half, single  GB/s
        _card("T4", 16, 65, 8.1, 320),
        _card("RTX 3060", 12, 25.5, 12.7, 360),
        _card("RTX 3080", 10, 59.5, 29.8, 760),
        _card("RTX 3090", 24, 71, 35.6, 936),
        _card("L4", 24, 121, 30.3, 300),
        _card("RTX 4090", 24, 165, 82.6, 1008),
        _card("RTX 5090", 32, 209, 105, 1792),
        _card("A100", 80, 312, 19.5, 2039),
        _card("H100", 80, 989, 67, 3350),
        _card("H200", 141, 989, 67, 4800),
    )
}


def card_named(name: str) -> Card:
    """The card whose name has these letters and digits, as in `rtx4090` or `NVIDIA GeForce RTX 4090`.

    Raises:
        UsageError: none has.
    """
    wanted = _letters(name)
    for known in sorted(CARDS, key=len, reverse=True):
        if _letters(known) in wanted or (wanted and wanted in _letters(known)):
            return CARDS[known]
    raise UsageError(f"There is no card {name!r} in the table. Known are {', '.join(CARDS)}. --vram 12GB does without.")


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def parse_bytes(text: str) -> float:
    """`12GB`, `11.5 GiB` or `12` (gigabytes) in bytes.

    Raises:
        UsageError: it is none of these.
    """
    units = {"": GB, "g": GB, "gb": GB, "gib": 2**30, "m": 10**6, "mb": 10**6, "mib": 2**20}
    stripped = text.strip().lower()
    number = stripped.rstrip("gmib ")
    try:
        found = float(number) * units[stripped[len(number) :].strip()]
    except (ValueError, KeyError):
        found = 0.0
    if not 0 < found < float("inf"):
        raise UsageError(f"{text!r} is no amount of memory. Write it as 12GB, 11.5GB or 800MB.")
    return found


def this_cpu() -> Card:
    """This machine's processors, measured by a short matrix product in each type and a copy, in a tenth of a second."""
    import psutil

    half, single = (_matrix_rate(dtype) for dtype in (torch.bfloat16, torch.float32))
    source = torch.ones(16_000_000)
    target = torch.empty_like(source)
    seconds = min(_seconds(lambda: target.copy_(source)) for _ in range(3))
    bandwidth = 2 * source.nbytes / seconds
    total = psutil.virtual_memory().total
    return Card("this CPU", total, half, single, bandwidth, matrix_share=0.7, bandwidth_share=0.7)


def _matrix_rate(dtype: torch.dtype, size: int = 768) -> float:
    a = torch.ones(size, size, dtype=dtype)
    return 2 * size**3 / min(_seconds(lambda: a @ a) for _ in range(3))


def _seconds(run) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def this_gpu() -> Card | None:
    """The first CUDA card of this machine, with the table's rates where it is in the table; None without one."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    try:
        known = card_named(found.name)
    except UsageError:
        known = CARDS["RTX 3060"]  # the slowest of today's: better too long than too short
    return Card(found.name, found.total_memory, known.half, known.single, known.bandwidth)
