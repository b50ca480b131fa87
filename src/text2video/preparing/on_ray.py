"""The same work on a Ray cluster: each actor encodes clips and texts as they come, into shards of its own.

Ray Data gives out the rows, restarts what fails and scales the actors. An actor has no last call, so its shard stays
unfinished until `recover` makes it whole, as it does after a kill; an actor that is started again opens another one.
"""

from collections.abc import Callable

import numpy as np
import torch

from ..data.shards import ShardWriter
from ..errors import UsageError
from .encoding import Encoder, Job, Work, readable, write

_BATCH = 64  # clips that an actor is given at a time


class RayEncoder:
    """An actor: numbers of clips and texts in, the same numbers out when they are encoded.

    Args:
        job, work: whose clips and then texts the numbers count.
    """

    def __init__(self, job: Job, work: Work):
        self.job, self.work = job, work
        self.encoder = Encoder.of(job, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self.writer = ShardWriter(job.shards, "ray")

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        numbers: list[int] = batch["id"].tolist()
        clips = len(self.work.clips)
        todos = [self.work.clips[number] for number in numbers if number < clips]
        for number in numbers:
            if number >= clips:
                text = self.work.texts[number - clips]
                self.writer.add("text", text, self.job.settings.text_mark, self.encoder.text(text))
        for todo, item in readable(self.job, todos, 1) if todos else ():
            write(self.writer, self.encoder, todo, item)
        return batch


def encode_on_ray(job: Job, work: Work, num_gpus: int, on_done: Callable[[int], None]) -> None:
    """Encodes with `num_gpus` actors, each with a GPU where the cluster has GPUs.

    Raises:
        UsageError: Ray is not installed.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(
            "--engine ray needs Ray, which is not installed. Install it with `pip install text2video[ray]`, or leave "
            "out --engine to encode on this machine."
        ) from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False)
    with_gpu = ray.cluster_resources().get("GPU", 0) > 0
    numbers = ray.data.range(len(work), override_num_blocks=-(-len(work) // _BATCH))
    encoded = numbers.map_batches(
        RayEncoder,
        fn_constructor_args=(job, work),
        batch_size=_BATCH,
        concurrency=num_gpus,
        num_gpus=1 if with_gpu else 0,
    )
    for done, _ in enumerate(encoded.iter_rows(), 1):
        on_done(done)
