"""Try an objective on random batches before a run does: shape, gradients, order, micro-batches.

python -m maskdpo_ray.check_objective python:my_package.my_module:my_loss --options "{margin: 0.5}"
"""

from __future__ import annotations

from maskdpo_ray.config import cli
from maskdpo_ray.config.file import from_text
from maskdpo_ray.terminal import show_findings
from maskdpo_ray.training.objectives import protocol

RESUMES = False
"""It keeps nothing that a second call could resume from."""


def main(argv: list[str]) -> None:
    """Print what was tried; raise SystemExit(1) when what a run needs failed."""
    given = _parser().parse_args(argv)
    options = from_text(given.options, "objective.options", "options").value if given.options else {}
    objective = protocol.load(given.objective, options)
    from maskdpo_ray.training import objective_check  # torch, which --help and a wrong name don't wait for

    needs = {"a reference": objective.needs_reference, "its distribution": objective.needs_kl}
    needed = [name for name, is_needed in needs.items() if is_needed]
    needed += [f"mean log-ratio of {role} responses" for role in objective.needs_means]
    print(f"{given.objective}: a loss for each {objective.unit}; needs {', '.join(needed) or 'the policy alone'}")
    show_findings(objective_check.check(objective, given.beta))


def _parser() -> cli.Parser:
    parser = cli.Parser("check_objective", __doc__, "OBJECTIVE [--options OPTIONS] [--beta BETA]")
    parser.add_argument(
        "objective", metavar="OBJECTIVE", help="python:package.module:function, or a name of docs/objectives.md"
    )
    parser.add_argument("--options", metavar="OPTIONS", help="its keyword arguments, as YAML: {name: value}")
    parser.add_argument("--beta", type=cli.above_0, default=0.1, help="as train.beta [default: 0.1]")
    return parser


if __name__ == "__main__":
    cli.start(main, resumes=RESUMES)
