"""`text2video train`: a run from YAML and flags. Its options are the fields of the configuration, read by `config`."""

import logging
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..config import FLAGS, RunConfig, read_config
from ..errors import UsageError
from ..sections import DECIDED
from .terminal import Lines, passing_progress, say

HELP, RESUME, DRY_RUN = {"--help", "-h"}, "--resume", "--dry_run"


def train(*tokens: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Train a model on captioned clips.

    Usage: text2video train [CONFIG.yaml] [--option value ...]

    Options are laid over the YAML. Dashes and underscores in their names are the same. The run's folder holds
    run.yaml, metrics, checkpoints, sample videos, and in the end the model in final/.
    """
    if HELP & set(tokens):
        from .train_help import show

        return show(train.__doc__ or "")
    config, resume, dry_run = read(tokens)
    if dry_run:
        from .dry_run import describe

        return say(describe(config))
    from ..data.layouts import require_there

    for stage in config.in_stages:
        stage.config.data.require()
        if stage.config.data.load_tensors is None:
            require_there(stage.config.data.data_dir)
            require_there(stage.config.data.data_root)
    note = said_of_resuming(config) if resume else ""
    from ..training.trainer import train as run
    from .plan_short import announce

    logger, lines = logging.getLogger("text2video"), Lines()
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        if note:
            logger.info(note)
        announce(config)
        checking, embedding = passing_progress("checking clips", "files"), passing_progress("embedding", "captions")
        with checking as on_checked, embedding as on_embedded:
            say(run(config, resume, on_checked, on_embedded))
    except KeyboardInterrupt:
        if (config.output_dir / "run.yaml").is_file():
            logger.info("The run goes on with: text2video train --resume --output_dir %s", config.output_dir)
        raise
    finally:
        logger.removeHandler(lines)


def read(tokens: tuple[str, ...]) -> tuple[RunConfig, bool, bool]:
    """The configuration that a command line means, whether to resume, and whether it is a dry run.

    Raises:
        UsageError: what stands there cannot be used, or there is nothing to resume.
    """
    own = [token.replace("-", "_").replace("__", "--", 1) for token in tokens]
    resume, dry_run = RESUME in own, DRY_RUN in own
    flags = [token for token, name in zip(tokens, own, strict=True) if name not in (RESUME, DRY_RUN)]
    path = Path(flags.pop(0)) if flags and not flags[0].startswith("--") else None
    if path and path.is_dir():
        raise UsageError(
            f"{path} is a folder, and a configuration is a YAML file. To go on with the run in it: "
            f"text2video train --resume --output_dir {path}"
        )
    given = FLAGS.parse(flags)
    folder = Path(given.get("output_dir", RunConfig.model_fields["output_dir"].default))
    if resume and path is None:
        if not (folder / "run.yaml").is_file():
            raise UsageError(
                f"There is no run to resume in {folder}: it has no run.yaml. Name the run's folder by --output_dir, "
                "or leave out --resume to start one."
            )
        # the folder may have been moved since
        return RunConfig.build(read_config(folder / "run.yaml") | {"output_dir": str(folder)}, flags), True, dry_run
    config = RunConfig.load(path, flags) if path else RunConfig.build({}, flags)
    if resume and not (config.output_dir / "run.yaml").is_file():
        raise UsageError(
            f"There is no run to resume in {config.output_dir}: it has no run.yaml. Leave out --resume to start one."
        )
    return config, resume, dry_run


def said_of_resuming(config: RunConfig) -> str:
    """What a resumed run does otherwise than it did before; empty when nothing."""
    before = leaves(RunConfig.load(config.output_dir / "run.yaml").model_dump(mode="json"))
    now = leaves(config.model_dump(mode="json"))
    unsaid = {"output_dir"}
    if config.train.init_from:  # which decides them
        unsaid |= {f"{section}.{name}" for section, names in DECIDED.items() for name in names}
    names = [name for name in before | now if before.get(name) != now.get(name) and name not in unsaid]
    changed = [f"{name} {before.get(name)} -> {now.get(name)}" for name in names]
    return f"The run goes on otherwise than it began: {', '.join(changed)}." if changed else ""


def leaves(values: dict, prefix: str = "") -> dict[str, object]:
    """Nested values as {dotted name: value}."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
