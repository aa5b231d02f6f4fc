#!/usr/bin/env bash
# Run the tests in the environment of scripts/install.sh, tier by tier (docs/testing.md). Every tier runs, whatever
# the one before it gave; the exit code is that of the first one that failed. Needs no GPU.
#
#   bash scripts/test.sh                              unit, ray and e2e: before every commit, and what CI runs
#   bash scripts/test.sh --all                        nightly as well: before a release
#   bash scripts/test.sh -k masking                   arguments go to pytest, in every tier
#   bash scripts/test.sh tests/ray/test_cluster.py    arguments that choose tests (files under tests/, -m,
#                                                     --last-failed ...) make it a single call of pytest
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/install.sh"
cd "$root"
# Once per clone, and here rather than in the first test that needs it.
.venv/bin/python scripts/convert_model.py --output models/smollm2-135m-instruct

tiers=(unit ray e2e) given=() names_files='' is_one_call=''
for argument in "$@"; do
    case $argument in
        --all) tiers+=(nightly); continue ;;
        tests | tests/*) names_files=1 ;;
        -m* | --lf | --last-failed | --ff | --failed-first | --sw | --stepwise | --co | --collect-only) is_one_call=1 ;;
        -h | --help | --version | --fixtures | --markers) is_one_call=1 ;;
    esac
    given+=("$argument")
done

pytest=(.venv/bin/python -m pytest --durations=10)
default=(-m "not gpu and not nightly")
if [ -n "$names_files" ]; then exec "${pytest[@]}" -m "not gpu" "${given[@]}"; fi
if [ -n "$is_one_call" ]; then exec "${pytest[@]}" "${default[@]}" tests "${given[@]}"; fi

# Set `selection` to a tier's tests.
select_tier() {
    case $1 in
        # Many short ones, without Ray or engines: on all cores.
        unit) selection=("${default[@]}" -n auto --maxprocesses 16 --dist loadfile tests/unit) ;;
        # Print each test of these tiers as it starts: one may take a minute.
        ray) selection=(-v "${default[@]}" tests/ray) ;;
        # Two files at a time: most of their time is start-up on one core.
        e2e) selection=(-v "${default[@]}" -n 2 --dist loadfile tests/e2e) ;;
        nightly) selection=(-v -m nightly tests/ray tests/e2e tests/nightly) ;;
    esac
}

code=0 ran=0 report=''
for number in "${!tiers[@]}"; do
    tier=${tiers[number]}
    echo "test: tier $((number + 1)) of ${#tiers[@]}, $tier"
    select_tier "$tier"
    start=$SECONDS result=0
    OMP_NUM_THREADS=1 "${pytest[@]}" "${selection[@]}" "${given[@]}" || result=$?
    case $result in
        0) ran=1 said=passed ;;
        5) said="no tests chosen" ;; # by -k, say: a failure only when no tier has any
        *) said=FAILED; [ "$code" != 0 ] || code=$result ;;
    esac
    report+=$(printf '%-8s %2d min %02d s  %s' "$tier" $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60)) "$said")$'\n'
done
printf '\n%s' "$report"
[ "$code" != 0 ] || [ "$ran" = 1 ] || code=5
exit "$code"
