"""Run experiments, arms x seeds, whose runs share the stages that they agree on, and make the table of each.

python -m maskdpo_ray.experiment configs/experiments/mask.yaml

Each run is a process of its own, `python -m maskdpo_ray.run`, one after another: an arm that crashes takes no other one
along. The same command resumes: finished runs are left alone. docs/experiments.md describes the files.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from maskdpo_ray import terminal
from maskdpo_ray.config import cli
from maskdpo_ray.config.cli import CommandLine, Parser
from maskdpo_ray.config.file import located, options
from maskdpo_ray.errors import ConfigError, RunFolderError, UserError, line, printable

if TYPE_CHECKING:
    from maskdpo_ray.config.experiment import ArmRun, Experiment
    from maskdpo_ray.report.experiments.table import Table
    from maskdpo_ray.stages.fork import Beginning

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Run what isn't finished, or with --dry_run say what would be run. Raises UserError; at the end, too, when runs
    are missing from the table.
    """
    own = _parser().parse_args(argv)
    from maskdpo_ray.config import experiment as experiment_file
    from maskdpo_ray.report.experiments.table import METRICS

    experiments = [experiment_file.read(Path(file), Path(own.dir), tuple(METRICS)) for file in own.experiments]
    files: dict[str, Path] = {}
    for each in experiments:
        if each.name in files:
            names = f"{files[each.name]} and {each.file}"
            raise ConfigError(f"expected experiments of different names, as their folders are; got {names}")
        files[each.name] = each.file
    begun = [check(experiment, own.dry_run) for experiment in experiments]
    grids = [
        Grid(experiment, own_runs, start, [run for runs in begun if runs is not own_runs for run in runs])
        for experiment, own_runs in zip(experiments, begun, strict=True)
    ]
    for grid in grids:
        print(grid.describe(), flush=True)
    if not own.dry_run:
        run_all(grids)


def run_all(grids: Sequence[Grid]) -> None:
    """Run one grid after another, each to its table. Raises UserError, at last, when runs are missing in any."""
    incomplete = []
    for grid in grids:
        try:
            grid.finish(grid.run())
        except RunFolderError as error:  # the others can still be done
            if len(grids) > 1:
                terminal.note(line(error))
            incomplete.append(error)
    if incomplete:
        raise incomplete[0]


def _parser() -> Parser:
    parser = Parser("experiment", __doc__, "EXPERIMENT [EXPERIMENT ...] [--dir DIR] [--dry_run]")
    parser.add_argument(
        "experiments", metavar="EXPERIMENT", nargs="+", help="YAML: base, arms, seeds; see docs/experiments.md"
    )
    parser.add_argument(
        "--dir", metavar="DIR", default="experiments", help="folder of the experiments' folders [default: experiments]"
    )
    parser.add_argument("--dry_run", action="store_true", help="check every arm, say what would be run, and stop")
    return parser


def check(experiment: Experiment, dry_run: bool = False) -> list[Beginning]:
    """Check every run as `run --dry_run` does, and that all arms are evaluated on the same questions.

    Returns what each begins with, in the order of `experiment.runs`. Raises UserError, one line.
    """
    from actors import weights
    from maskdpo_ray.config import resources
    from maskdpo_ray.models import adapters
    from maskdpo_ray.stages import hub_models, preflight
    from maskdpo_ray.stages.fork import Beginning
    from maskdpo_ray.store import run_folder

    published = cache(weights.publish)
    of_arm: dict[str, Beginning] = {}
    found = []
    for run in experiment.runs:
        with located(run.given, experiment.file), _of_arm(run, experiment.file):
            command = CommandLine(Namespace(), run.at_start, dry_run, (experiment.file,), run.given)
            config = adapters.merged(hub_models.local(command, resumes=True).config, dry_run)
            if run.arm not in of_arm:  # seeds of an arm differ in nothing that is checked here
                resources.check_ray_address(config.cluster)
                prepared = preflight.check(config)
                resources.Plan(config).check_here(dry_run=dry_run)
                of_arm[run.arm] = Beginning(config, published(config.model.model_name_or_path, 0), prepared)
            begun = replace(of_arm[run.arm], config=run.complete(config))
            run_folder.check_run(begun.config, begun.prepared.inputs())
        found.append(begun)
    first, *others = of_arm.items()
    for arm, begun in others:
        for split, asked in first[1].prepared.evaluation.items():
            if list(asked) != list(begun.prepared.evaluation.get(split, ())):
                raise ConfigError(
                    f"{experiment.file}: arms.{arm}: expected the {split} questions of arm {first[0]}, to be compared "
                    "with it, got others"
                )
    return found


@contextmanager
def _of_arm(run: ArmRun, file: Path) -> Iterator[None]:
    """Name the arm in a UserError about a file that it names, unless it says where an option stands."""
    try:
        yield
    except UserError as error:
        option = ".".join(str(error).partition(": ")[0].split(".")[:2])
        if option in options() or str(error).startswith(str(file)):
            raise
        raise type(error)(f"{file}: arms.{run.arm}: {error}") from error


@dataclass(frozen=True)
class Grid:
    """All runs of an experiment."""

    experiment: Experiment
    begun: Sequence[Beginning]
    """One for each run, in their order."""
    start: Callable[[ArmRun, Path], int]
    """Run one to its end, given the experiment's folder; returns the exit code."""
    others: Sequence[Beginning] = ()
    """Runs of other experiments, from which results may be taken over too."""

    def run(self) -> dict[str, str]:
        """Run what isn't finished, one after another; returns why runs have failed, by their names."""
        failed: dict[str, str] = {}
        for number, (run, begun) in enumerate(zip(self.experiment.runs, self.begun, strict=True), start=1):
            if is_finished(begun):
                continue
            self._say(number, run, len(failed))
            try:
                if shared := self._share(begun):
                    terminal.note(f"experiment {self.experiment.name}: {run.name} takes over from {shared}")
            except UserError as error:  # another run's folder is damaged, which is no reason not to do this one
                terminal.note(f"experiment {self.experiment.name}: {run.name} takes over nothing: {line(error)}")
            code = self.start(run, self.experiment.folder)
            if code or not is_finished(begun):
                failed[run.name] = _why(begun.path, code)
                terminal.note(f"experiment {self.experiment.name}: {run.name} failed: {failed[run.name]}")
        return failed

    def finish(self, failed: dict[str, str]) -> Table:
        """Write and print the table of what is finished. Raises UserError, at last, when a run is missing."""
        from maskdpo_ray.report.comparison import FinishedRun
        from maskdpo_ray.report.experiments import made, page, table, written

        runs, missing = {}, {}
        for run, begun in zip(self.experiment.runs, self.begun, strict=True):
            if is_finished(begun):
                runs[run.name] = FinishedRun.read(begun.path)
            else:
                missing[run.name] = failed.get(run.name, "not run")
        found = table.build(self.experiment, runs, missing)
        written.write(found, self.experiment.folder)
        made.write(self.experiment, runs)
        page.write(self.experiment.folder)
        print(f"\n{written.markdown(found)}\ntable: {self.experiment.folder / 'table.md'}", flush=True)
        if missing:
            names = ", ".join(missing)
            raise RunFolderError(
                f"{self.experiment.folder}: expected {len(self.experiment.runs)} finished runs, got {len(runs)}; "
                f"missing: {names}; the same command tries them again"
            )
        return found

    def describe(self) -> str:
        """The grid in words: arms, runs, what is finished."""
        experiment, finished = self.experiment, sum(map(is_finished, self.begun))
        configs: dict[str, dict[str, str]] = {}
        for run in experiment.runs:
            configs.setdefault(run.arm, _values(run))
        baseline = configs[experiment.baseline]
        lines = [f"experiment {experiment.name} in {experiment.folder}", f"  baseline: arm {experiment.baseline}"]
        for arm, config in configs.items():
            other = [f"{name} {value}" for name, value in config.items() if value != baseline[name]]
            if arm != experiment.baseline:
                lines.append(f"  arm {arm}: {', '.join(other) or 'the same as the baseline'}")
        lines += [
            f"  seeds: {', '.join(map(str, experiment.seeds))}",
            f"  runs: {len(experiment.runs)}, one after another; {finished} finished",
        ]
        return "\n".join(map(printable, lines))

    def _share(self, begun: Beginning) -> str:
        """Begin the run's folder, unless it is there, with what another run has finished; says what that is."""
        from maskdpo_ray.stages import fork

        if begun.path.exists():
            return ""
        others = [other for other in (*self.begun, *self.others) if other.path != begun.path and other.path.exists()]
        found = fork.best(begun, others)
        if found is None:
            return ""
        return f"{os.path.relpath(found[0].old.path, begun.path.parent)}: {found[0].make().describe()}"

    def _say(self, number: int, run: ArmRun, failed: int) -> None:
        """A line on the whole grid."""
        seconds: dict[str, list[float]] = {}
        rest = []
        for each, begun in zip(self.experiment.runs, self.begun, strict=True):
            if is_finished(begun):
                seconds.setdefault(each.arm, []).append(_worked(begun))
            else:
                rest.append(each.arm)
        every = [one for of_arm in seconds.values() for one in of_arm]
        num_runs, done, left = len(self.begun), len(every), ""
        if every:  # an arm that shares much takes less time than one that doesn't
            means = [seconds.get(arm, every) for arm in rest]
            left = f", about {_duration(sum(sum(each) / len(each) for each in means))} left"
        bad = f", {failed} failed" if failed else ""
        terminal.note(
            f"experiment {self.experiment.name}: {done} of {num_runs} runs finished{bad}{left}; "
            f"now {run.name} ({number} of {num_runs})"
        )


def is_finished(begun: Beginning) -> bool:
    """Whether nothing is left to do in a run's folder."""
    from maskdpo_ray.evaluation.choice import Choice
    from maskdpo_ray.records import EVALUATE
    from maskdpo_ray.stages import choose
    from maskdpo_ray.stages.evaluate import sampled_as
    from maskdpo_ray.store import files, ledger

    if not (begun.path / "summary.json").is_file():
        return False
    entries = ledger.read_entries(begun.path / "ledger.jsonl")
    newest = ledger.num_trained(entries)
    names = [f"{EVALUATE}{name}" for name in sampled_as(begun.config, begun.prepared.evaluation)]
    chosen = ledger.find_finished(entries, choose.CHOOSE, newest)
    if chosen is None or not all(ledger.find_finished(entries, name, newest) for name in names):
        return False
    choice = files.read_json(begun.path / f"eval_{newest:03d}" / "choice.json", Choice)
    return choice.keep == begun.config.run.keep and choose.has_ended(begun.config, choice, newest)


def _values(run: ArmRun) -> dict[str, str]:
    """Dotted option -> its value in words, of all but what the experiment gives each run."""
    given = {
        f"{section}.{name}": value
        for section, block in cli.resolved(run.config).items()
        for name, value in block.items()
        if section != "run" or name not in ("name", "dir", "seed")
    }
    return {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in given.items()}


def _worked(begun: Beginning) -> float:
    from maskdpo_ray.store import ledger

    return ledger.worked(ledger.read_entries(begun.path / "ledger.jsonl"))


def start(run: ArmRun, folder: Path) -> int:
    """Run one as a process, which ends with this one; returns its exit code."""
    from maskdpo_ray.store import files

    config = folder / "configs" / f"{run.name}.yaml"
    files.write_whole(config, cli.to_yaml(run.config).encode())
    command = [sys.executable, "-m", "maskdpo_ray.run", "--config", str(config)]
    process = subprocess.Popen(command, preexec_fn=_end_with_parent)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()  # it ends in order, as after a Ctrl-C of its own
            process.wait()


def _end_with_parent() -> None:
    """Let the kernel stop this process should the one that started it be killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _why(path: Path, code: int) -> str:
    """Why a run has failed, in one line: what its error.log ends with, if it left one."""
    file = path / "error.log"
    if file.is_file():
        lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return line(UserError(lines[-1]))
    return f"exit code {code}" if code >= 0 else f"ended by signal {-code}"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 2 * 3600 else f"{max(1, round(seconds / 60))} min"


if __name__ == "__main__":
    cli.start(main)
