#!/usr/bin/env bash
# The README's table: the quickstart with Mask-DPO's mask and with plain DPO's (all ones), three seeds each.
# Rollouts are seeded, so both masks of a seed learn from the same first-iteration pairs. About ten minutes a run on
# two cores; a stopped call goes on where it was.
# Arguments go to every run: bash scripts/compare_masks.sh --adam.lr 3e-5
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
bash scripts/install.sh
.venv/bin/python scripts/convert_model.py --output models/smollm2-135m-instruct
folders=()
for seed in 1 2 3; do
    for mask in mask_dpo vanilla; do
        name=$mask-seed$seed
        .venv/bin/python -m maskdpo_ray.run --config configs/quickstart.yaml --run.dir runs/compare_masks \
            --run.name "$name" --run.seed "$seed" --mask.policy "$mask" "$@"
        folders+=("runs/compare_masks/$name")
    done
done
.venv/bin/python -m maskdpo_ray.report.comparison "${folders[@]}"
