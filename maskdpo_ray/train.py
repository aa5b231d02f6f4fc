"""Entry point: Mask-DPO on the pairs of a file, on training ranks alone.

python -m maskdpo_ray.train pairs.jsonl --config configs/quickstart.yaml --run.name offline
"""

from __future__ import annotations

import os

from maskdpo_ray import error_log, loopback
from maskdpo_ray.commands import arguments, own_folder, train


def main(argv: list[str]) -> None:
    """Raises UserError."""
    job = train.prepare(argv)
    print(job.describe(), flush=True)
    if job.dry_run:
        return
    loopback.prefer(job.config.cluster)
    from actors import weights
    from maskdpo_ray.cluster import Cluster

    with own_folder.opened(job.config) as (folder, tracker):
        if train.is_finished(folder):
            print(f"{folder.path} is finished: nothing is left to do", flush=True)
        else:
            with error_log.kept(folder.path):
                initial = weights.publish(job.config.model.model_name_or_path, 0)
                job.begin(initial, folder)
                with Cluster(job.config) as cluster:
                    with tracker.stage("start", 0):
                        trainer = cluster.start_trainer()
                    job.run(initial, trainer, folder, tracker)
        summary = job.summary(folder)
        folder.write_json("summary.json", summary)
    print(train.shown(summary))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    arguments.start(main)
