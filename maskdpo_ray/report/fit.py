"""Whether a config fits, as tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maskdpo_ray import fitting
from maskdpo_ray.config.schema import Config
from maskdpo_ray.engine_sizing import GIB
from maskdpo_ray.errors import printable
from maskdpo_ray.fitting import Machines, Models, Verdict
from maskdpo_ray.models import remedy
from maskdpo_ray.models.memory import Moment, Term


def show(
    config: Config,
    models: Models,
    machines: Machines,
    verdicts: Sequence[Verdict],
    assumed: Sequence[str] = (),
    file: TextIO | None = None,
) -> None:
    """Print each group's memory estimate and verdict, GPUs and network, to `file` or standard output.

    Args:
        assumed: assumptions that no option states, in words.
    """
    console = Console(file=file or sys.stdout, highlight=False)
    if assumed:
        console.print(f"Assumed: {'; '.join(assumed)}", markup=False, soft_wrap=True)
    policy, annotator = models.policy, models.annotator
    console.print(f"Policy {_described(policy)}; longest prompt: {models.prompt_tokens} tokens", markup=False)
    if annotator is not None:
        console.print(f"Annotator {_described(annotator)}", markup=False)
    console.print()
    for verdict in verdicts:
        console.print(_table(verdict), sep="\n")
        for remark in verdict.remarks:
            console.print(remark, markup=False, soft_wrap=True)
        console.print(_verdict(verdict), style=None if verdict.fits else "bold", markup=False, soft_wrap=True)
        console.print()
    if config.cluster.device == "cuda":
        console.print(_gpus(config, machines), markup=False, soft_wrap=True)
    if advice := _advice(config, models, machines, verdicts):
        console.print(advice, style="bold", markup=False, soft_wrap=True)
    _network(console, config, models)
    console.print(Text("~: a bound or an estimate; without it the figure is counted from shapes."))


def gib(size: int) -> str:
    """Bytes as GiB."""
    return f"{size / GIB:,.2f}"


def _described(shape: fitting.ModelShape) -> str:
    return f"{printable(shape.name)}: {shape.parameters:,} parameters"


def _table(verdict: Verdict) -> Table:
    table = Table(
        title=f"{verdict.group}, {verdict.moment.name}: {verdict.memory}",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
        title_style="bold",
        show_footer=True,
    )
    table.add_column("", footer="sum")
    table.add_column("GiB", justify="right", footer=_marked(verdict.moment))
    for term in verdict.moment.terms:
        table.add_row(term.name, _marked(term))
    return table


def _marked(size: Term | Moment) -> str:
    """In GiB, with the mark of what is not exact."""
    return ("" if size.is_exact else "~") + gib(size.size)


def _verdict(verdict: Verdict) -> str:
    size = _marked(verdict.moment)
    if verdict.has is None:
        return f"{verdict.group}: {size} GiB; what there is is not known (--node_memory_gib)"
    if verdict.fits:
        return f"{verdict.group}: fits, {size} of {gib(verdict.has)} GiB"
    hint = f"; {verdict.hint}" if verdict.hint else ""
    return f"{verdict.group}: DOES NOT FIT, {size} of {gib(verdict.has)} GiB{hint}"


def _gpus(config: Config, machines: Machines) -> str:
    needed, terms = fitting.gpus_needed(config)
    if machines.num_gpus is None:
        return f"GPUs: {needed} = {terms}"
    word = "enough" if needed <= machines.num_gpus else "NOT ENOUGH"
    return f"GPUs: {needed} of {machines.num_gpus} = {terms}: {word}"


def _advice(config: Config, models: Models, machines: Machines, verdicts: Sequence[Verdict]) -> str:
    """Advice if something does not fit: options that make it fit, or that there are none."""
    most, on_gpus = machines.num_gpus, config.cluster.device == "cuda"
    is_short = most is not None and fitting.gpus_needed(config)[0] > most
    judges = [verdict for verdict in verdicts if verdict.group == fitting.ANNOTATORS and not verdict.fits]
    if not is_short and all(verdict.fits or verdict in judges for verdict in verdicts):
        return ""
    if most is not None and on_gpus and most < (least := remedy.fewest_gpus(config)):
        groups = " and ".join(f"one of the {group.name}" for group in fitting.gpu_groups(config))
        return f"A run of this config takes {least} GPUs or more, for {groups}: no option makes do with {most}"
    options = remedy.find(config, models, machines)
    if options is None:
        if not on_gpus:
            return "No options make it fit: take a smaller model, or more memory"
        there = f"{'' if most is None else f'{most} '}GPUs of {gib(machines.gpu_memory)} GiB"
        return f"No options make it fit on {there}: take a smaller model, or more or larger GPUs"
    words = " ".join(f"--{name} {_word(value)}" for name, value in options.items())
    total = f", on {fitting.gpus_needed(remedy.changed(config, options))[0]} GPUs" if on_gpus else ""
    return f"{'All but the annotation actors fit' if judges else 'It fits'} with: {words}{total}"


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _network(console: Console, config: Config, models: Models) -> None:
    engines, policy = config.rollout.num_engines, fitting.policy_bytes(config, models.policy)
    console.print(
        f"Crosses the network in an iteration: a policy of {gib(policy)} GiB to {engines} engines = "
        f"{gib(engines * policy)} GiB",
        soft_wrap=True,
    )
    if config.train.num_ranks > 1:
        step = gib(fitting.step_bytes(config, models.policy))
        console.print(f"  and ~{step} GiB from each rank in an optimizer step of one micro-batch")
