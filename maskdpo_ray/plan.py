"""Say whether a config's models fit into memory, and how many GPUs it takes, before anything is started.

python -m maskdpo_ray.plan --config configs/paper.yaml --model_size 8b --annotator_size internlm2-7b --num_gpus 16

The exit code is 0 when everything fits, 1 when not. Without --config every option has its default, and a GPU's option
means cluster.device cuda. docs/sizing.md says what is exact and what is estimated.
"""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maskdpo_ray.config import cli
from maskdpo_ray.config.cli import Parser, number
from maskdpo_ray.config.file import Given
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ConfigError, printable, shown
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.models import memory as fitting
from maskdpo_ray.models import other_folders, remedy
from maskdpo_ray.models import shape as model_shape
from maskdpo_ray.models.folder import ModelFolder
from maskdpo_ray.models.memory import GIB, Machines, Models, Moment, Term, Verdict
from maskdpo_ray.models.shape import ModelShape

_PROMPT_TOKENS = 1024
_GPU_OPTIONS = ("gpu_memory_gib", "num_gpus")


def main(argv: list[str]) -> None:
    """Print the sums; ends with 1 when something does not fit. Raises UserError for what a user can mend."""
    command = _parser().parse(argv, without_file=_given)
    own = command.own
    config = command.config
    models, machines = _models(own, config), _machines(own, config)
    found = fitting.verdicts(config, models, machines)
    pass

    show(config, models, machines, found, _assumed(own, config, "cluster.device" in command.given))
    needed, _ = fitting.gpus_needed(config)
    is_short = machines.num_gpus is not None and needed > machines.num_gpus
    if is_short or not all(verdict.fits for verdict in found):
        raise SystemExit(1)


def _given(own: Namespace) -> dict[str, Given]:
    """What the options mean for the config where there is no file. Raises ConfigError when they name no model."""
    given = {}
    if own.model_size is not None:
        given["model.model_name_or_path"] = Given(own.model_size, "--model_size")
    elif getattr(own, "model.model_name_or_path") is None:
        raise ConfigError("--model_size: expected the size of a model, or --config with a model's folder, got nothing")
    if any(getattr(own, name) is not None for name in _GPU_OPTIONS):
        given["cluster.device"] = Given("cuda", "--num_gpus, --gpu_memory_gib")
    return given


def _assumed(own: Namespace, config: Config, is_device_given: bool) -> list[str]:
    """Assumptions about the machines that no option states."""
    if config.cluster.device == "cpu":
        return [] if is_device_given else ["CPUs alone (--num_gpus or --gpu_memory_gib says otherwise)"]
    memory = ["GPUs of 80 GiB (--gpu_memory_gib)"] * (own.gpu_memory_gib is None)
    return memory + ["as many GPUs as it takes (--num_gpus)"] * (own.num_gpus is None)


def _parser() -> Parser:
    parser = Parser("plan", __doc__, "[--model_size SIZE] [options]")
    sizes = ", ".join(model_shape.SIZES)
    parser.add_argument("--model_size", metavar="SIZE", help=f"in place of the policy's folder: {sizes}")
    parser.add_argument("--annotator_size", metavar="SIZE", help="in place of the folder of a judge on a GPU")
    parser.add_argument("--gpu_memory_gib", type=_gib, metavar="GIB", help="memory of a GPU (default: 80)")
    parser.add_argument("--num_gpus", type=number, metavar="N", help="GPUs of all nodes (default: as many as it takes)")
    parser.add_argument("--num_nodes", type=_count, metavar="N", default=1, help="nodes (default: 1)")
    parser.add_argument(
        "--node_memory_gib", type=_gib, metavar="GIB", help="a node's own memory (default: on a CPU this machine's)"
    )
    parser.add_argument(
        "--prompt_tokens",
        type=_count,
        metavar="N",
        help="longest prompt (default: what vllm.max_model_len leaves beside an answer, "
        f"or {_PROMPT_TOKENS} without that)",
    )
    return parser.add_config(is_required=False)


def _gib(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or not float(text):
        raise ArgumentTypeError(f"expected GiB above 0, got {shown(text)}")
    return float(text)


def _count(text: str) -> int:
    if not number(text):
        raise ArgumentTypeError(f"expected a whole number above 0, got {shown(text)}")
    return number(text)


def _models(own: Namespace, config: Config) -> Models:
    folder = config.model.model_name_or_path
    if own.model_size is not None:
        policy = model_shape.of_size(own.model_size, "--model_size")
    elif os.path.isfile(os.path.join(folder, "config.json")):
        policy = _of_folder(folder, config.model.trust_remote_code, is_trained=True)
    else:
        expected = f"expected a folder with config.json, or --model_size, got {shown(folder)}"
        raise ConfigError(f"model.model_name_or_path: {expected}{other_folders.described(folder)}")
    return Models(policy, _annotator(own, config), _prompt_tokens(own, config, policy))


def _of_folder(folder: str, trust_remote_code: bool, is_trained: bool = False) -> ModelShape:
    from maskdpo_ray.models import shape as model_shape  # imports torch and transformers

    return model_shape.of_folder(Path(folder), trust_remote_code, is_trained)


def _prompt_tokens(own: Namespace, config: Config, policy: ModelShape) -> int:
    """Of the longest prompt. Refuses what a run would: sequences that the policy can't take."""
    file = Path(config.model.model_name_or_path) / "config.json"
    limit = model_folder.max_len(ModelFolder(file, policy.described, None, policy.context), config.vllm)
    longest, answer = own.prompt_tokens, config.rollout.max_new_tokens
    if answer >= limit:
        expected = f"expected less than the model's context ({limit}), which also holds the prompt"
        raise ConfigError(f"rollout.max_new_tokens: {expected}, got {answer}")
    if longest is None:
        longest = limit - answer if config.vllm.max_model_len is not None else _PROMPT_TOKENS
    if longest + answer > limit:
        expected = f"at most {limit - answer}, which an answer leaves (rollout.max_new_tokens)"
        raise ConfigError(f"--prompt_tokens: expected {expected}, got {longest}")
    return longest


def _annotator(own: Namespace, config: Config) -> ModelShape | None:
    """Of a judge on a GPU; none where rules label, or a judge elsewhere."""
    if config.cluster.device == "cpu" or not config.cluster.gpus_per_annotator:
        if own.annotator_size is not None:
            where = "annotators have no GPU (cluster.gpus_per_annotator)"
            raise ConfigError(f"--annotator_size: expected none where {where}, got {shown(own.annotator_size)}")
        return None
    if own.annotator_size is not None:
        return model_shape.of_size(own.annotator_size, "--annotator_size")
    options = fitting.judge_options(config)
    folder = options.get("model") or (config.annotation.options or {}).get("model")
    if isinstance(folder, str) and os.path.isfile(os.path.join(folder, "config.json")):
        return _of_folder(folder, options.get("trust_remote_code") is True)
    raise ConfigError(
        "--annotator_size: expected the size of the annotator's model, as annotators have a GPU "
        f"(cluster.gpus_per_annotator) and there is no folder {shown(folder)}"
    )


def _machines(own: Namespace, config: Config) -> Machines:
    is_cpu = config.cluster.device == "cpu"
    for name in _GPU_OPTIONS:
        if is_cpu and getattr(own, name) is not None:
            raise ConfigError(f"--{name}: expected none where cluster.device is cpu, got {getattr(own, name):g}")
    node = own.node_memory_gib
    if node is None and is_cpu:
        node = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    split_gpus = config.vllm.tensor_parallel_size
    if own.num_gpus is not None and split_gpus > max(1, own.num_gpus // own.num_nodes):
        raise ConfigError(
            f"vllm.tensor_parallel_size: expected at most the {own.num_gpus // own.num_nodes} GPUs of a node, "
            f"got {split_gpus}"
        )
    return Machines(
        gpu_memory=int((own.gpu_memory_gib or 80) * GIB),
        num_gpus=own.num_gpus,
        num_nodes=own.num_nodes,
        node_memory=None if node is None else int(node * GIB),
    )


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


if __name__ == "__main__":
    cli.start(main)
