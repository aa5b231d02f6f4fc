"""Run the loop: answer, annotate, pair and train, iteration after iteration, and evaluate every policy.

python -m maskdpo_ray.run --config configs/quickstart.yaml
"""

from __future__ import annotations

import shlex
import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `cli.start`: Ctrl-C amid imports is no traceback

from maskdpo_ray import terminal
from maskdpo_ray.config import cli, resources
from maskdpo_ray.config.file import located


def main(argv: list[str]) -> None:
    """Run, or with --dry_run say what a run would do. Raises UserError."""
    command = cli.parse(argv, "run", __doc__)  # before the heavy imports: --help and bad options answer at once
    from maskdpo_ray.models import adapters, hub_upload
    from maskdpo_ray.report import card, page, summary
    from maskdpo_ray.stages import choose, hub_models, preflight
    from maskdpo_ray.store import run_folder

    command = hub_models.local(command, resumes=True)
    with located(command.given, command.config_path):
        config = adapters.merged(command.config, command.dry_run)
        prepared = preflight.check(config)
        resources.check_ray_address(config.cluster)
    path = run_folder.run_path(config)
    entries = run_folder.check_run(config, prepared.inputs())
    plan = resources.Plan(config)
    plan.check_here(dry_run=command.dry_run)
    with located(command.given, command.config_path):
        hub_upload.check(config.hub, command.dry_run)
    num_eval = {split: len(held) for split, held in prepared.evaluation.items()}
    said = preflight.describe(plan, len(prepared.train), num_eval, path, entries)
    print("\n".join([said, f"  {prepared.way}", *prepared.dropped_lines()]), flush=True)
    if command.dry_run:
        return
    resources.prefer_loopback(config.cluster)
    from actors import weights
    from maskdpo_ray.cluster import Cluster
    from maskdpo_ray.loop import Loop

    with run_folder.open_run(config) as (folder, tracker):
        if choose.is_finished(config, folder, prepared.evaluation):
            choose.commit(config, folder, folder.num_trained)  # again, if `run.keep` has changed
            print(f"{path} is finished: nothing is left to do", flush=True)
        else:
            print(f"  to watch it: python -m maskdpo_ray.watch {shlex.quote(str(path))}", flush=True)
            with terminal.error_log(path):
                initial = weights.publish(config.model.model_name_or_path, 0)
                other = prepared.given.other and (weights.publish(prepared.given.other[0], 0), prepared.given.other[1])
                inputs = (config, prepared.train, prepared.evaluation, prepared.chat, initial)
                with Cluster(config) as cluster:
                    with tracker.stage("start", 0):
                        groups = cluster.start(initial, prepared.chat, prepared.annotator, prepared.evaluator, other)
                    Loop(*inputs, groups, folder, tracker, prepared.given).run()
        result = {**summary.build(path), **prepared.dropped_json()}
        folder.write_json("summary.json", result)
        kept = result["kept"]["version"]
        card.write(path, kept)
        report = page.write(path)
    summary.show(result)
    print(f"  page:   {report} (open it in a browser)")
    hub_upload.push(config.hub, path / "policy" if kept else None, ["python", "-m", "maskdpo_ray.run", *argv])


if __name__ == "__main__":
    cli.start(main)
