"""Entry point: label answers with the config's annotator, on annotation actors alone.

python -m maskdpo_ray.annotate rollouts.jsonl -o annotations.jsonl --config configs/quickstart.yaml
"""

from __future__ import annotations

import os

from maskdpo_ray import loopback
from maskdpo_ray.commands import annotate, arguments


def main(argv: list[str]) -> None:
    """Raises UserError, and SystemExit(1) when questions failed: what comes next would lack their labels."""
    job = annotate.prepare(argv)
    print(job.describe(), flush=True)
    if job.dry_run:
        return
    if job.num_answers:
        loopback.prefer(job.config.cluster)
        from maskdpo_ray.cluster import Cluster

        with job.labels, Cluster(job.config) as cluster:
            job.run(cluster.start_annotators(job.annotator))
    print(job.summary())
    if job.failed:
        raise SystemExit(1)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    arguments.start(main)
