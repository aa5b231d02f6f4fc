#!/usr/bin/env bash
# A run on Slurm: a Ray node on each node of the job, the driver on the first. Arguments go to the run; call it from the
# repository, on a file system that all nodes share, after `bash scripts/install.sh --gpu`. docs/cluster.md explains it.
#
#   sbatch --nodes 4 --time 12:00:00 deploy/slurm.sh --config mine.yaml --cluster.device cuda
#
# Pre-empted, out of time or with a node lost, the job is queued again under the same number, and the run resumes.
#SBATCH --job-name=maskdpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"
# shellcheck source=/dev/null
source .venv/bin/activate

# SIGTERM comes here, two minutes before the time is over, and before a pre-emption where Slurm is set up for that.
# The driver gets it, and needs half a minute to stop in order.
driver='' is_stopped=''
trap 'is_stopped=1; [ -z "$driver" ] || kill -TERM "$driver" || true' TERM

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]:?scontrol names no nodes}
port=$((20000 + SLURM_JOB_ID % 10000)) # of Ray's head: no two jobs on a node share one
start=(srun --overlap --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}")
# --block: the step, and with it the node's Ray, ends with the job.
"${start[@]}" --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port="$port" --block &
steps=($!)
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    others=$((SLURM_JOB_NUM_NODES - 1))
    "${start[@]}" --nodes="$others" --ntasks="$others" --exclude="$head" \
        bash -c "until ray health-check --address '$head:$port'; do sleep 1; done 2>/dev/null
                 exec ray start --address '$head:$port' --block" &
    steps+=($!)
fi
until ray health-check --address "$head:$port" 2>/dev/null; do
    kill -0 "${steps[0]}" 2>/dev/null || { echo "slurm: Ray did not start on $head, see above" >&2; exit 1; }
    [ -z "$is_stopped" ] || break
    sleep 1
done

code=143
if [ -z "$is_stopped" ]; then
    python -m maskdpo_ray.run "$@" --cluster.address "$head:$port" --cluster.nodes_timeout_s 600 &
    driver=$!
    # One that came while the driver had no number yet.
    [ -z "$is_stopped" ] || kill -TERM "$driver" || true
    code=0
    wait "$driver" || code=$?
    # A signal ends the wait, not the driver.
    while kill -0 "$driver" 2>/dev/null; do code=0; wait "$driver" || code=$?; done
fi
kill "${steps[@]}" 2>/dev/null || true
if [ -n "$is_stopped" ] && [ "$code" != 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
