#!/usr/bin/env bash
# Resolve requirements/cpu.in again and write requirements/cpu.lock.
#
#   bash scripts/lock.sh                          keep every version that still fits
#   bash scripts/lock.sh --upgrade                take the newest of everything that is not pinned in cpu.in
#   bash scripts/lock.sh --upgrade-package peft   take the newest of one package
#
# Arguments go to `uv pip compile`. Where pip is configured to find the CPU build of torch (find-links), that is used;
# elsewhere MASKDPO_TORCH_INDEX (default: PyTorch's CPU wheel index).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-python3.11}
uv_version=0.13.8

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "lock: preparing uv $uv_version"
"$PYTHON" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet "uv==$uv_version"

links=$("$work/venv/bin/python" -m pip config get global.find-links 2>/dev/null || true)
links=${PIP_FIND_LINKS:-$links}
torch_index=${MASKDPO_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
if [ -n "$links" ]; then
    source=(--find-links "$links")
else
    source=(--index "$torch_index" --index-strategy unsafe-best-match)
    export PIP_EXTRA_INDEX_URL=$torch_index
    echo "lock: torch from $torch_index"
fi

# uv keeps the versions of the file that it writes to.
[ -f "$root/requirements/cpu.lock" ] && grep -E '^[a-z0-9]' "$root/requirements/cpu.lock" | tr -d ' \\' >"$work/pins.txt"
"$work/venv/bin/uv" pip compile "$root/requirements/cpu.in" --overrides "$root/requirements/cpu.overrides" \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --quiet --no-header --no-annotate \
    --output-file "$work/pins.txt" "${source[@]}" "$@" >/dev/null
"$work/venv/bin/python" "$root/scripts/lock.py" "$work/pins.txt" "$work/cpu.lock"
mv "$work/cpu.lock" "$root/requirements/cpu.lock"
