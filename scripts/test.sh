#!/usr/bin/env bash
# Run every test that needs no GPU, in the environment of scripts/install.sh: the unit tier on all cores, then the
# others, which start Ray and engines and need the machine to themselves, one by one. Both run, and both must pass.
# Arguments go to pytest, in both calls: bash scripts/test.sh -k masking. With some that choose tests (-m, files under
# tests/, --last-failed ...) it is one call, as it stands: bash scripts/test.sh tests/ray/test_cluster.py
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/install.sh"
cd "$root"
# Once per clone, and here rather than in the first test that needs it.
.venv/bin/python scripts/convert_model.py --output models/smollm2-135m-instruct

pytest=(.venv/bin/python -m pytest -m "not gpu" --durations=25)
chosen=() is_one_call=
for argument in "$@"; do
    case $argument in
        tests | tests/*) chosen+=("$argument") ;;
        -m* | --lf | --last-failed | --ff | --failed-first | --sw | --stepwise | --co | --collect-only) is_one_call=1 ;;
        -h | --help | --version | --fixtures | --markers) is_one_call=1 ;;
    esac
done
if [ ${#chosen[@]} -gt 0 ]; then exec "${pytest[@]}" "$@"; fi
if [ -n "$is_one_call" ]; then exec "${pytest[@]}" tests "$@"; fi

# 5 is pytest's exit code where an argument (-k) has left no test: a fault only when it does so in both calls.
units=0 others=0
OMP_NUM_THREADS=1 "${pytest[@]}" -n auto --maxprocesses 16 --dist loadfile tests/unit "$@" || units=$?
"${pytest[@]}" tests --ignore tests/unit "$@" || others=$?
[ "$units" != 5 ] || units=$others
[ "$others" != 5 ] || others=$units
[ "$units" = 0 ] || exit "$units"
exit "$others"
