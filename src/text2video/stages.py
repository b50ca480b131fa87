"""The stages of a run: each lays a few fields over the configuration, and they follow one another in one folder.

Progressive training (as of progressive growing, Karras et al. 2018, arXiv:1710.10196, and of most large video models)
begins with few small frames, where steps are cheap, and ends at the full size. All stages train one model: only what a
model is shown, how fast it learns and how much a step holds may differ between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .flags import did_you_mean
from .values import over

if TYPE_CHECKING:
    from .config import RunConfig

# Section -> fields of it that a stage may set.
FIELDS = {
    "data": ("load_tensors", "num_frames", "frame_size", "height", "width", "buckets", "pack", "fps"),
    "optim": ("learning_rate", "muon_learning_rate", "lr_schedule", "warmup_steps", "min_lr_ratio"),
    "train": ("max_steps", "batch_size", "gradient_accumulation_steps", "gradient_checkpointing"),
}
SECTION_OF = {name: section for section, names in FIELDS.items() for name in names}
AS_MANY_AS_IT_TAKES = 10**9  # epochs: a stage's max_steps ends it, whatever its data is
EPOCHS_APART = 10**5  # the epochs of a stage are numbered from a multiple of it, so that each has orders of its own


@dataclass(frozen=True)
class Stage:
    """One of a run's stages. A run without any is one stage, as long as its data says.

    Args:
        number: of the stage, from 1.
        of: how many there are.
        first: steps of the stages before it.
        config: of this stage, complete and without stages.
        run_steps: of all stages; None: the data decides.
    """

    number: int
    of: int
    first: int
    config: "RunConfig"
    run_steps: int | None = None

    @property
    def last(self) -> bool:
        """Whether the run ends with it."""
        return self.number == self.of

    @property
    def first_epoch(self) -> int:
        """The number of its first epoch."""
        return (self.number - 1) * EPOCHS_APART

    def has(self, step: int) -> bool:
        """Whether a run that made so many steps goes on in it, or has made all its steps and ended in it."""
        return self.last or step < self.first + (self.config.train.max_steps or 0)

    def in_words(self) -> str:
        """`stage 1 of 2, steps 1 to 400: 8x16x16 (8 frames of 16x16 pixels), batch size 32`; empty without stages."""
        if self.run_steps is None:
            return ""
        data, train = self.config.data, self.config.train
        shapes = " ".join(data.buckets) or data.shape.in_words()
        shown = f"prepared in {data.load_tensors}" if data.load_tensors else shapes
        steps = f"steps {self.first + 1} to {self.first + (train.max_steps or 0)}"
        size = f"packs of {data.pack} tokens" if data.pack else f"batch size {train.batch_size}"
        return f"stage {self.number} of {self.of}, {steps}: {shown}, {size}"


def in_sections(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a stage sets as values of a configuration: section -> field -> value.

    A stage's `frame_size` stands for its height and width, whatever the run says of these.

    Raises:
        UsageError: a field is not one that a stage may set, or the stage has no length.
    """
    found: dict[str, dict[str, Any]] = {"data": {}, "optim": {}, "train": {"num_epochs": AS_MANY_AS_IT_TAKES}}
    if "frame_size" in values:
        found["data"] |= {"height": None, "width": None}
    for name, value in values.items():
        if name not in SECTION_OF:
            raise UsageError(
                f"A stage cannot set {name!r}.{did_you_mean(str(name), SECTION_OF)} All stages train one model on the "
                f"same clips; each of them may set {', '.join(SECTION_OF)}"
            )
        found[SECTION_OF[name]][name] = value
    if values.get("max_steps") is None:
        raise UsageError("A stage has no max_steps, which says how many steps it takes")
    return found


def laid_over(values: Mapping[str, Any], stage: Mapping[str, Any]) -> dict[str, Any]:
    """A run's values as they are in one of its stages."""
    return over(values, in_sections(stage)) | {"stages": []}
