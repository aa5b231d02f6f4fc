#!/usr/bin/env bash
# From a fresh clone to a more factual language model on the CPU: install, convert the bundled model, run the main job.
# Arguments go to the job: bash scripts/quickstart.sh --run.name second --run.seed 2
# A second call reuses what is there; a stopped run goes on.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
bash scripts/install.sh
echo "quickstart: the bundled model as a Hugging Face folder"
.venv/bin/python scripts/convert_model.py --output models/smollm2-135m-instruct
echo "quickstart: the main job on configs/quickstart.yaml"
exec .venv/bin/python -m maskdpo_ray.run --config configs/quickstart.yaml "$@"
