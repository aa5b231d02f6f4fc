#!/usr/bin/env bash
# The comparison of masks in docs/results.md: the quickstart with Mask-DPO's mask and as plain DPO (every token counts,
# EOS too), three seeds each, on held-out countries. The first of the six is the quickstart's own run, made or reused.
# Rollouts are seeded and sampled in float32, so both masks of a seed train on the same first-iteration pairs; the last
# lines say whether they did. About half an hour a run on two cores; a stopped call resumes.
# Arguments go to every run; with some, name another folder for the runs:
# MASKDPO_RUNS=runs/bf16 bash scripts/compare_masks.sh --ds.param_dtype bf16
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
folders=()
runs=${MASKDPO_RUNS:-runs}
given=("$@")
# The run's name comes first, options of the job follow.
compare() {
    bash scripts/quickstart.sh --run.dir "$runs" --run.name "$@" "${given[@]}"
    folders+=("$runs/$1")
}
compare quickstart
for seed in 1 2 3; do
    options=(--run.seed "$seed" --data.transfer null)
    [ "$seed" = 1 ] || compare "mask_dpo-seed$seed" "${options[@]}"
    compare "vanilla-seed$seed" "${options[@]}" --mask.policy vanilla --mask.eos keep
done
.venv/bin/python -m maskdpo_ray.report.comparison "${folders[@]}"
