"""Entry point: evaluate a model, or answers that exist, without training ranks.

python -m maskdpo_ray.evaluate --config configs/quickstart.yaml --run.name eval
"""

from __future__ import annotations

import os

from maskdpo_ray import error_log, loopback
from maskdpo_ray.commands import arguments, evaluate, own_folder


def main(argv: list[str]) -> None:
    """Raises UserError."""
    job = evaluate.prepare(argv)
    print(job.describe(), flush=True)
    if job.dry_run:
        return
    loopback.prefer(job.config.cluster)
    from actors import weights
    from maskdpo_ray.cluster import Cluster
    from maskdpo_ray.report import tables

    with own_folder.opened(job.config) as (folder, tracker):
        if job.is_finished(folder):
            print(f"{folder.path} is finished: nothing is left to do", flush=True)
        else:
            with error_log.kept(folder.path):
                given, prepared = job.answers, job.prepared
                policy = given.policy if given else weights.publish(job.config.model.model_name_or_path, 0)
                folder.begin(policy, job.inputs(), job.prepared.chat.now)
                with Cluster(job.config) as cluster:
                    with tracker.stage("start", 0):
                        engines, *judges = cluster.start_evaluation(
                            None if given else policy, prepared.chat, prepared.annotator, prepared.evaluator
                        )
                    job.run(policy, given or engines, *judges, folder, tracker)
        summary = job.summary(folder)
        folder.write_json("summary.json", summary)
    tables.show(summary)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    arguments.start(main)
