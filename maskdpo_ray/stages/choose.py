"""The policy that a run keeps: chosen when a policy has been evaluated, and the end of a run that finds no better one.

Both are functions of the run folder's evaluations on development topics and of `run.keep`, `run.patience` and
`run.iterations`, so that a run that resumes, with other values too, comes to what an undisturbed one comes to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from maskdpo_ray.config.schema import Config
from maskdpo_ray.evaluation.choice import Choice, choose
from maskdpo_ray.evaluation.metrics import Evaluation
from maskdpo_ray.records import EVALUATE
from maskdpo_ray.stages import evaluate
from maskdpo_ray.stages.evaluate import DEV
from maskdpo_ray.store.run_folder import RunFolder

CHOOSE = "choose"
"""Stage of the ledger."""


def commit(config: Config, folder: RunFolder, newest: int) -> Choice:
    """Choose among the evaluated policies 0 to `newest`; write the choice down and let `policy` lead to the kept one.

    Raises RunFolderError where `policy` can't be a link.
    """
    found = chosen(config, folder, newest)
    facts = {"keep": found.keep, "keep_kinds": config.run.keep_kinds, "version": found.version}
    if folder.finished(CHOOSE, newest) != facts:
        file = folder.write_json(f"eval_{newest:03d}/choice.json", found)
        folder.finish(CHOOSE, newest, [file], **facts)
    folder.link_policy(_place(config, folder, found.version))
    return found


def chosen(config: Config, folder: RunFolder, newest: int) -> Choice:
    """The choice among the evaluated policies 0 to `newest`."""
    is_measured = folder.finished(f"{EVALUATE}{DEV}", newest) is not None
    names = [f"eval_{version:03d}/{DEV}.json" for version in range(newest + 1)] if is_measured else []
    development = [folder.read_json(name, Evaluation) for name in names]
    run, samples = config.run, config.eval.bootstrap_samples
    return choose(run.keep, newest, development, seed=run.seed, bootstrap_samples=samples, keep_kinds=run.keep_kinds)


def has_ended(config: Config, choice: Choice, newest: int) -> bool:
    """Whether the run trains no further policy after `newest`: it was the last, or `run.patience` is exhausted."""
    patience = config.run.patience
    is_exhausted = patience is not None and choice.best is not None and newest - choice.best >= patience
    return newest >= config.run.iterations or is_exhausted


def is_finished(config: Config, folder: RunFolder, splits: Iterable[str]) -> bool:
    """Whether nothing is left to do but, after a change of `run.keep`, to choose again."""
    newest = folder.num_trained
    if not evaluate.is_finished(config, folder, splits, newest):
        return False
    return has_ended(config, chosen(config, folder, newest), newest)


def _place(config: Config, folder: RunFolder, version: int) -> Path:
    """Folder of a policy: within the run folder relative to it, so that it may be moved."""
    if version == 0:
        return Path(os.path.abspath(config.model.model_name_or_path))
    return folder.policy_dir(version - 1).relative_to(folder.path)
