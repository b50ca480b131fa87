"""The errors a user can cause. Every message names the value, the rule it breaks, and the way out."""


class Text2VideoError(Exception):
    """Something the user can put right. The command line prints the message alone and exits with `exit_code`."""

    exit_code = 1


class UsageError(Text2VideoError):
    """A wrong option, configuration key or value."""

    exit_code = 2


class VideoError(Text2VideoError):
    """A file that cannot be read as video, or a video that cannot be written."""


class DataError(Text2VideoError):
    """A data set that cannot be used: nothing found, no captions, columns that do not exist."""


class ModelError(Text2VideoError):
    """Weights, a tokenizer or a model folder that is missing or does not fit."""


class TrainingError(Text2VideoError):
    """A run that cannot go on: NaN, a checkpoint that does not fit, a disk that is full."""
