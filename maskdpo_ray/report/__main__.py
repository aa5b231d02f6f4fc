"""Make the page of a run or experiment, finished or not: verdict, curves, answers before and after, provenance.

python -m maskdpo_ray.report runs/quickstart
python -m maskdpo_ray.report runs/quickstart --serve             follow a run in a browser
python -m maskdpo_ray.report --compare runs/masked runs/vanilla  runs side by side
python -m maskdpo_ray.report experiments/mask                    an experiment: its table, pictures, what it says

One self-contained HTML file of at most 5 MB: it opens from disk and asks nothing of any network.
"""

from __future__ import annotations

from pathlib import Path

from maskdpo_ray.config import cli
from maskdpo_ray.config.cli import Parser, number
from maskdpo_ray.errors import ConfigError, shown
from maskdpo_ray.report.progress import ProgressReader

RESUMES = False


def main(argv: list[str]) -> None:
    """Write the page, or serve it. Raises UserError."""
    own = _parser().parse_args(argv)
    folders = [Path(folder) for folder in own.runs]
    if own.compare and len(folders) < 2:
        raise ConfigError(f"--compare: expected two runs or more, got {len(folders)}")
    if not own.compare and len(folders) != 1:
        raise ConfigError(f"RUN: expected one run folder, got {len(folders)}; --compare takes several")
    if own.serve and (own.compare or own.output):
        raise ConfigError("--serve: expected one run folder and neither --compare nor --output")
    if own.output is not None and Path(own.output).suffix not in (".html", ".htm"):
        raise ConfigError(f"--output: expected a file that ends in .html, got {shown(own.output)}")
    target = None if own.output is None else Path(own.output)
    from maskdpo_ray.report.experiments import page as experiments

    if not own.compare and experiments.is_experiment(folders[0]):
        if own.serve:
            raise ConfigError("--serve: expected the folder of a run, got that of an experiment")
        print(f"page: {experiments.write(folders[0], target)}")
        return
    for folder in folders:
        ProgressReader(folder)  # refuses what is no run folder
    if own.serve:
        from maskdpo_ray.report import server

        server.serve(folders[0], own.port)
        return
    from maskdpo_ray.report import page
    from maskdpo_ray.store import files

    if own.compare:
        target = Path("comparison.html") if target is None else target
        files.write_whole(target, page.of_runs(folders).encode("utf-8", "backslashreplace"))
    else:
        target = page.write(folders[0], target)
    print(f"page: {target}")


def _parser() -> Parser:
    parser = Parser("report", __doc__, "RUN [--output FILE | --serve] | --compare RUN RUN ... [--output FILE]")
    parser.add_argument("runs", metavar="RUN", nargs="*", help="folder of a run or an experiment: runs/quickstart")
    parser.add_argument("--compare", action="store_true", help="put runs side by side; default file: comparison.html")
    parser.add_argument("--output", metavar="FILE", help="where the page goes; default: report.html in the run folder")
    parser.add_argument("--serve", action="store_true", help="serve the page on 127.0.0.1 and follow the run")
    parser.add_argument(
        "--port", metavar="N", type=number, default=8600, help="port of --serve (default: 8600; 0: any)"
    )
    return parser


if __name__ == "__main__":
    cli.start(main, resumes=RESUMES)
