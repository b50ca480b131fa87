"""Video files in and out: the one place that knows containers, pixel formats, value ranges, rotation and time.

A frame leaves this package upright, with square pixels, as uint8 RGB `[H, W, 3]`. FFmpeg does the work, through PyAV;
nothing here imports torch.
"""

from .members import inner_name, is_file, open_file
from .reading import PICTURES, Video, VideoInfo, examine, probe, read
from .sampling import Short, fits, resize, sample
from .sound import Sound, listen, log_mel, read_sound
from .view import View
from .writing import contact_sheet, read_metadata, writable, write, write_frames

__all__ = [
    "PICTURES",
    "Short",
    "Sound",
    "Video",
    "VideoInfo",
    "View",
    "contact_sheet",
    "examine",
    "fits",
    "inner_name",
    "is_file",
    "listen",
    "log_mel",
    "open_file",
    "probe",
    "read",
    "read_metadata",
    "read_sound",
    "resize",
    "sample",
    "writable",
    "write",
    "write_frames",
]
