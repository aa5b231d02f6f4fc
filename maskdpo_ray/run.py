"""Entry point: parse -> check -> plan -> connect -> loop -> close.

python -m maskdpo_ray.run --config configs/quickstart.yaml
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from maskdpo_ray import cli, stopping
from maskdpo_ray.config_file import located
from maskdpo_ray.errors import UserError


def main(argv: list[str]) -> None:
    """Run, or with --dry_run say what a run would do. Raises UserError for what a user can mend."""
    command = cli.parse(argv)  # before the heavy imports: --help and bad options answer at once
    from maskdpo_ray import preflight
    from maskdpo_ray.plan import Plan
    from maskdpo_ray.report import summary
    from maskdpo_ray.run_folder import RunFolder
    from maskdpo_ray.tracking import Tracker

    config, resolved = command.config, cli.resolved(command.config)
    with located(command.given, command.config_path):
        prepared = preflight.check(config)
    path = Path(config.run.dir) / config.run.name
    Tracker(path, config.logger, resolved).check()
    RunFolder.check(path, resolved, {"train": prepared.train, **prepared.evaluation})
    num_eval = {split: len(held) for split, held in prepared.evaluation.items()}
    print(Plan(config).describe(len(prepared.train), num_eval, path), flush=True)
    if command.dry_run:
        return
    if config.cluster.address is None and "RAY_ADDRESS" not in os.environ:
        # With clusters off, Ray keeps the 127.0.0.1 that cluster.py gives it, and a local one listens there only. With
        # clusters on it puts the machine's outward address in its place. It reads the variable when it is imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from actors import weights
    from maskdpo_ray.cluster import Cluster
    from maskdpo_ray.loop import Loop, is_finished

    with RunFolder.open(path, resolved) as folder, Tracker(path, config.logger, resolved) as tracker:
        for note in folder.notes:
            print(note, flush=True)
        try:
            if is_finished(config, prepared.evaluation, folder):
                print(f"{path} is finished: nothing is left to do", flush=True)
            else:
                initial = weights.publish(config.model.model_name_or_path, 0)
                inputs = (config, prepared.train, prepared.evaluation, prepared.tokenizer, initial)
                with Cluster(config) as cluster:
                    with tracker.stage("start", 0):
                        stages = cluster.start(initial, prepared.render, prepared.annotator, prepared.evaluator)
                    Loop(*inputs, stages, folder, tracker).run()
        except Exception:
            (path / "error.log").write_text(traceback.format_exc(), encoding="utf-8")
            raise
        (path / "error.log").unlink(missing_ok=True)  # of an earlier attempt
        result = summary.build(path)
        folder.write_json("summary.json", result)
    summary.show(result)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with stopping.orderly():
            main(sys.argv[1:])
    except UserError as error:
        cli.fail(error)
