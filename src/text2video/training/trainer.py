"""One training loop for every family and objective, on accelerate.

accelerate places, wraps, casts, reduces and tracks; order and randomness are ours. Everything random is a function of
(seed, epoch, clip id) in the loader's workers and of (seed, step, sample index) in the loop, so the step is the only
position to save, and a resumed run equals an unbroken one bit for bit.
"""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import RunConfig
from ..data.dataset import to_float
from ..diffusion.objectives import Batch, packed_loss
from ..errors import TrainingError, UsageError
from ..families import lora
from ..families.opening import model_folder
from .build import build, conditions_of_run, learning, shape_rules, steps_in_all, tokens_of
from .checkpoint import Checkpoints, write_text, write_whole
from .data import RunData, batches, check_shapes, encoded, open_data, sampler_of
from .draws import draw, draw_latents, generator
from .ema import EMA
from .embedding import embed_ahead
from .interrupt import Interrupt
from .optim import learning_rate, make_optimizer
from .placing import placed
from .processes import accelerator_of, by_first, leave_group
from .rehearsal import rehearse
from .sharding import assembled, collected
from .starting import open_base, settled
from .tracking import NotANumber, Tracker, best_so_far, is_validated
from .watching import sample_videos, validation_loss

logger = logging.getLogger("text2video")


def train(
    config: RunConfig,
    resume: bool = False,
    on_checked: Callable[[int, int], None] | None = None,
    on_embedded: Callable[[int, int], None] | None = None,
) -> Path:
    """Train a model as configured; the folder of the finished one.

    Args:
        on_checked: called with (files, of how many) while the data is checked.
        on_embedded: called with (captions, of how many) while they are embedded ahead of a fine-tuning.
        resume: go on with the run in `config.output_dir`, from its newest checkpoint.

    Raises:
        UsageError: the configuration cannot be used, or the folder already holds a run.
        DataError: there is nothing to train on.
        TrainingError: the loss was not a number, or the disk refused.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint was written.
    """
    prepare_folder(config, resume)
    try:
        while not Trainer(config, on_checked, on_embedded).run():
            gc.collect()  # before the next stage builds its model
    finally:
        leave_group()
    return config.output_dir / "final"


def prepare_folder(config: RunConfig, resume: bool) -> None:
    """Whether the run's folder may be used: an old run in it is resumed, never overwritten."""
    steps = Checkpoints(config.output_dir, 1).steps()
    if (steps or (config.output_dir / "final").exists()) and not resume:
        raise UsageError(
            f"{config.output_dir} already holds a run. Go on with it by --resume, or choose another --output_dir."
        )
    if config.output_dir.is_file():
        raise UsageError(f"{config.output_dir} is a file. --output_dir has to be a folder.")


class Trainer:
    """A run, or the stage of it that comes next: build, resume, then step, validate, preview and save until done.

    Args:
        config: of the run; `self.config` is that of the stage.
        on_checked, on_embedded: see `train`.
    """

    def __init__(
        self,
        config: RunConfig,
        on_checked: Callable[[int, int], None] | None = None,
        on_embedded: Callable[[int, int], None] | None = None,
    ):
        self.checkpoints = Checkpoints(config.output_dir, config.train.keep_checkpoints)
        steps = self.checkpoints.steps()
        self.stages = [stage for stage in config.in_stages if stage.has(steps[-1] if steps else 0)]
        self.stage = self.stages[0]
        self.accelerator = accelerator_of(self.stage.config)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.rank, self.world = rank, world

        self.base = open_base(self.stage.config)
        self.run_config = settled(config, self.base)
        self.config = config = settled(self.stage.config, self.base)
        self.data: RunData = self.open_data(on_checked)
        # A resumed run keeps its vocabulary, whatever became of the captions.
        begun = self.checkpoints.path(steps[-1]) / "model" if steps else None
        self.family, self.pipe, self.objective = build(
            config, self.data.captions, self.data.shape, self.base, begun, self.data.cache
        )
        self.sampler = sampler_of(config, self.data.train, partial(tokens_of, self.family, self.pipe), rank, world)
        self.own_steps = steps_in_all(config.train, self.sampler)
        self.end = self.stage.first + self.own_steps
        self.total_steps = self.stage.run_steps or self.end
        self.before_stage = self.sampler.batches_before(self.stage.first_epoch) - self.stage.first
        if begun is None and self.base is None:
            self.family.begin(self.pipe, self.some_videos)

        parts = learning(config, self.family, self.pipe)
        if self.base and self.data.known:
            embed_ahead(self.family, self.pipe, self.data.known, self.accelerator.device, on_embedded)
        self.modules, self.parts, self.sharded = placed(config, self.pipe, parts, self.accelerator)
        weights = {
            f"{name}.{key}": p for name, part in parts.items() for key, p in part.named_parameters() if p.requires_grad
        }
        self.ema = EMA(weights, config.optim.ema_decay)
        names = {p: name for name, p in weights.items()}
        self.optimizers = {
            player: self.accelerator.prepare_optimizer(make_optimizer(config.optim, own, names))
            for player, own in self.objective.players(names).items()
        }
        scaler = self.accelerator.scaler
        self.states: dict[str, Any] = {**self.optimizers, **({"scaler": scaler} if scaler else {})}
        self.final = config.output_dir / "final"
        self.best_loss, self.best_step = float("inf"), -1
        self.interrupt = Interrupt()

    # --- the run ------------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Train from where the folder stands to the end, or to that of the stage; write `final` after the last one.

        Returns:
            Whether the run is done: there are no more stages.
        """
        config, main = self.config, self.accelerator.is_main_process
        if main:
            config.output_dir.mkdir(parents=True, exist_ok=True)
            self.checkpoints.sweep()
        self.accelerator.wait_for_everyone()
        done = self.resume()
        if main:  # after the checkpoint was found to fit
            write_text(config.output_dir / "run.yaml", self.run_config.to_yaml())
        self.accelerator.init_trackers(config.tracking.project)
        tracker = Tracker(config, self.accelerator, self.total_steps, done, self.sampler.batch_size)
        for note in filter(None, [self.stage.in_words(), *self.data.notes, *self.sampler.notes()]):
            logger.info(note)
        otherwise = self.checkpoints.otherwise(done, self.sampler.batch_size)
        if otherwise and done > self.stage.first:
            logger.warning(otherwise)
        if done > self.end:
            logger.warning("The run has made %d steps already, more than the %d of this configuration", done, self.end)
        parameters = sum(p.numel() for p in self.ema.parameters.values())
        logger.info(
            "%.2fM parameters train on %s, %d steps", parameters / 1e6, self.accelerator.device, self.total_steps
        )
        try:
            with self.interrupt:
                self.loop(tracker, done)
            if self.stage.last:
                with self.averaged(to_save=True):
                    if main:
                        write_whole(self.final, self.write_model)
            self.accelerator.wait_for_everyone()
            return self.stage.last
        except NotANumber as error:
            good = self.checkpoints.steps()
            last = (
                f"The last good checkpoint is {self.checkpoints.path(good[-1])}" if good else "There is no checkpoint"
            )
            message = f"{error} {last}. A lower --learning_rate or --mixed_precision no may help."
            logger.error(message)
            raise TrainingError(message) from None
        finally:
            tracker.close()

    def resume(self) -> int:
        """Read the newest checkpoint, if there is one; the number of steps it stands after."""
        steps = self.checkpoints.steps()
        if not steps:
            return 0
        self.checkpoints.load(steps[-1], self.ema.parameters, self.ema.averages, self.states)
        self.best_loss, self.best_step = best_so_far(
            self.config.output_dir / "metrics.jsonl", self.stage.first, steps[-1]
        )
        if self.accelerator.is_main_process and self.best_step in steps:  # killed before it was marked
            self.checkpoints.mark_best(self.best_step)
        return steps[-1]

    def open_data(self, on_checked: Callable[[int, int], None] | None) -> RunData:
        """The run's data, checked by one process for all; of later stages the shapes only, long before they begin."""
        rules, told = shape_rules(self.config, self.base), conditions_of_run(self.config, self.base)
        for stage in self.stages[1:]:
            check_shapes(stage.config.data, rules)
        return by_first(
            self.accelerator,
            partial(open_data, self.config.data, self.config.seed, rules, on_checked=on_checked, conditions=told),
        )

    def loop(self, tracker: Tracker, done: int) -> None:
        """Steps `done` + 1 to the last of the stage, with validation, previews and checkpoints between them."""
        train, preview = self.config.train, self.config.preview
        self.sampler.start = self.before_stage + done
        stream = batches(self.data.train, self.sampler, self.config.data.num_workers)
        rehearse(self)
        if self.owes_validation(done):
            self.validate(tracker, done)
            if self.is_best(done) and self.accelerator.is_main_process:
                self.checkpoints.mark_best(done)
        for step in range(done, self.end):
            losses, grad_norm = self.step(step, stream)
            done = step + 1
            last = done == self.end
            tracker.step(done, self.config.optim.learning_rate * self.rate(step), losses, grad_norm)
            stop = self.agree(self.interrupt.noted)  # asked once, so that a stop always comes with a checkpoint
            try:
                if done % train.eval_steps == 0 or last:
                    self.validate(tracker, done)
                if preview.sample_steps and (done % preview.sample_steps == 0 or last):
                    sample_videos(self, tracker, done)
            except Exception as error:
                # the steps were good; a checkpoint of several processes needs all of them
                if self.world == 1 and not isinstance(error, NotANumber):
                    self.save(tracker, done)
                raise
            if done % train.save_steps == 0 or last or stop or self.is_best(done):
                self.save(tracker, done)
            if stop and done < self.total_steps:
                raise KeyboardInterrupt

    def step(self, step: int, stream: Iterator[list[dict[str, Any]]]) -> tuple[dict[str, Tensor], Any]:
        """One step: batch, loss, backward, clip, step, average."""
        place = self.before_stage + step
        size = self.sampler.size(place)
        micro_batches = [self.batch(step, own, size, next(stream)) for own in self.sampler.shares(place)]
        losses: dict[str, Tensor] = {}
        grad_norm = None
        for player, optimizer in self.optimizers.items():
            if not self.objective.plays(player, step):
                continue
            for micro, (parts, captions) in enumerate(micro_batches):
                with self.synchronised(micro == len(micro_batches) - 1):
                    # dropout inside the model; it also depends on how samples are dealt out to processes
                    torch.manual_seed(generator(self.config.seed, 20, step, micro, self.rank).initial_seed())
                    # every clip of the step counts the same, also where its last batch is smaller
                    loss = self.loss(player, parts, captions) / (size / (len(captions) * self.world))
                    self.accelerator.backward(loss)
                losses[f"{player}/loss"] = losses.get(f"{player}/loss", 0) + loss.detach()
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * self.rate(step)
            own = [p for group in optimizer.param_groups for p in group["params"]]
            norm: Any = self.accelerator.clip_grad_norm_(own, self.config.optim.max_grad_norm)
            grad_norm = assembled(norm)
            optimizer.step()
            for other in self.optimizers.values():
                other.zero_grad()
        self.ema.update(step)
        total = torch.stack(list(losses.values())).sum()
        return {"train/loss": total, **(losses if len(losses) > 1 else {})}, grad_norm

    def batch(
        self, step: int, samples: range, size: int, groups: list[dict[str, Any]]
    ) -> tuple[list[Batch], list[str]]:
        """What the loader gave as what the objective needs: a batch of one shape, or packed clips as a batch each.

        Args:
            samples: which they are of the `size` samples of the step.
        """
        batches, captions, first = [], [], samples.start
        for items in groups:
            indices = range(first, first + len(items["captions"]))
            batch, own = self._batch(step, indices, size, items)
            batches.append(batch)
            captions += own
            first = indices.stop
        return batches, captions

    def _batch(self, step: int, indices: range, size: int, items: dict[str, Any]) -> tuple[Batch, list[str]]:
        """Items of one shape; some captions are emptied, for guidance."""
        device = self.accelerator.device
        latents = encoded(self.family, self.pipe, items, device)
        x_0 = draw_latents(latents, [(self.config.seed, 11, step, index) for index in indices])
        noise, u, uniform = draw(self.config.seed, step, indices, size, x_0.shape[1:])
        dropout = self.config.data.caption_dropout
        captions = ["" if r < dropout else c for r, c in zip(uniform, items["captions"], strict=True)]
        generators = [generator(self.config.seed, 12, step, index) for index in indices]
        conditions = self.family.conditions(self.pipe, items, x_0, generators)
        return Batch(x_0, noise.to(device), u.to(device), conditions, step), captions

    def loss(self, player: str, batches: list[Batch], captions: list[str]) -> Tensor:
        """The player's loss on one batch, or on packed clips, in the run's precision."""
        with self.accelerator.autocast():
            text = self.family.encode_text(self.pipe, self.modules, captions)
            predict: Any = partial(self.family.predict, self.pipe, self.modules)
            if len(batches) == 1:
                (batch,) = batches
                return self.objective.loss(predict, replace(batch, condition={**text, **batch.condition}), player)
            texts = ({name: value[n : n + 1] for name, value in text.items()} for n in range(len(batches)))
            clips = [replace(b, condition={**own, **b.condition}) for b, own in zip(batches, texts, strict=True)]
            return packed_loss(self.objective, predict, clips, player)

    def rate(self, step: int) -> float:
        """The share of its highest learning rate that a step has: each stage warms up and anneals by itself."""
        return learning_rate(self.config.optim, step - self.stage.first, self.own_steps)

    def synchronised(self, last: bool) -> Any:
        """Gradients are exchanged between processes in the last micro-step only; dealt out, they are in each."""
        if last or self.world == 1 or self.sharded:
            return nullcontext()
        stack = ExitStack()
        for module in self.modules.values():
            stack.enter_context(self.accelerator.no_sync(module))
        return stack

    def some_videos(self) -> Iterator[Tensor]:
        """Training clips for what a family measures on them, each `[1, 3, T, H, W]`: the same ones each time."""
        data, count = self.data.train, self.config.vae.measured_clips
        for index in range(count):  # all clips as often as each other; every time round is another epoch's view
            yield to_float(data[index % len(data), index // len(data)]["video"])[None]

    # --- between steps ------------------------------------------------------------------------------------------

    def validate(self, tracker: Tracker, step: int) -> None:
        """Log the validation loss, and note the lowest."""
        loss = validation_loss(self)
        if loss is None:
            return
        tracker.validation(step, loss)
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, step

    def owes_validation(self, done: int) -> bool:
        """Whether the run stopped while it validated its last step."""
        due = done % self.config.train.eval_steps == 0 or done == self.end
        validated = is_validated(self.config.output_dir / "metrics.jsonl", done)
        return self.stage.first < done <= self.end and due and self.data.val is not None and not validated

    def is_best(self, step: int) -> bool:
        """Whether the validation loss after this step was the lowest so far."""
        return self.best_step == step

    def save(self, tracker: Tracker, step: int) -> None:
        """A checkpoint; what metrics.jsonl says up to it is on the disk first."""
        tracker.sync()
        main = self.accelerator.is_main_process
        states = {name: state.state_dict() for name, state in self.states.items()}
        everything = (self.ema.parameters, self.ema.averages, states)
        weights, averages, states = collected(everything, main)
        with self.averaged(to_save=True):
            if main:
                self.checkpoints.save(step, weights, averages, states, self.write_model, self.sampler.batch_size)
                if self.is_best(step):
                    self.checkpoints.mark_best(step)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def averaged(self, to_save: bool = False) -> Iterator[None]:
        """Within, the pipeline is the one that would be saved: averaged weights, nothing that only training wants.

        All processes enter at once. `to_save`: only the first one has to have it, and in main memory.
        """
        device = self.accelerator.device
        if to_save:
            device = torch.device("cpu") if self.accelerator.is_main_process else None
        applied = self.sharded.gathered(self.ema.averages, device) if self.sharded else self.ema.applied()
        for part in self.parts.values():
            part.eval()
        try:
            with applied, torch.compiler.set_stance("force_eager"):
                yield
        finally:
            for part in self.parts.values():
                part.train()

    def write_model(self, folder: Path) -> None:
        """The model as it is `averaged`, or its adapter, as a folder that `generate` takes."""
        if self.config.lora is None:
            self.family.settle(self.pipe, self.some_videos)
            with lora.folded(self.parts.values()):
                self.family.save(self.pipe, folder)
        else:
            train = self.config.train
            lora.save(folder, self.parts, model_folder(train.init_from or ""), train.parts)

    def agree(self, flag: bool) -> bool:
        """Whether any process raised the flag."""
        if self.world == 1:
            return flag
        return self.sum(torch.tensor(float(flag))) > 0

    def sum(self, value: Tensor) -> float:
        """The sum of a number over all processes."""
        total: Any = self.accelerator.reduce(value.to(self.accelerator.device), reduction="sum")
        return total.item()
