#!/usr/bin/env bash
# Resolve requirements/cpu.in and gpu.in again and write cpu.lock and gpu.lock, each for every Python of PYTHONS. What
# both have is locked at one version.
#
#   bash scripts/lock.sh                          keep every version that still fits
#   bash scripts/lock.sh --upgrade                take the newest of everything that is not pinned in the .in files
#   bash scripts/lock.sh --upgrade-package peft   take the newest of one package
#
# Arguments go to `uv pip compile`. The CPU build of torch comes from where pip is configured to find it (find-links);
# elsewhere from MASKDPO_TORCH_INDEX (default: PyTorch's CPU wheel index).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../requirements"
PYTHON=${PYTHON:-python3.11}
PYTHONS=(3.11 3.12) # the lowest first: what it cannot have, the others do without
uv_version=0.13.8

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "lock: preparing uv $uv_version"
"$PYTHON" -m venv "$work/venv"
python=$work/venv/bin/python
"$python" -m pip install --quiet "uv==$uv_version"

links=$("$python" -m pip config get global.find-links 2>/dev/null || true)
links=${PIP_FIND_LINKS:-$links}
torch_index=${MASKDPO_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
if [ -n "$links" ]; then
    cpu_source=(--find-links "$links")
else
    cpu_source=(--index "$torch_index" --index-strategy unsafe-best-match)
    echo "lock: torch from $torch_index"
fi

# Print the pins of a lock.
pins() { if [ -f "$1" ]; then sed -nE 's/^([a-z0-9][^ ]+).*/\1/p' "$1"; fi; }

# Resolve FLAVOUR for one Python: resolve FLAVOUR PYTHON OUTPUT ARGUMENT...
resolve() {
    local flavour=$1 version=$2 output=$3 overrides=(--overrides common.overrides)
    shift 3
    [ ! -f "$flavour.overrides" ] || overrides+=(--overrides "$flavour.overrides")
    # Its metadata is all that is needed of the other Pythons, so none is downloaded.
    UV_PYTHON_DOWNLOADS=never "$work/venv/bin/uv" pip compile "$flavour.in" "${overrides[@]}" \
        --python-version "$version" --python-platform x86_64-manylinux_2_31 \
        --quiet --no-header --no-annotate --output-file "$output" "$@" >/dev/null
}

: >"$work/shared.txt"
echo 'torch; sys_platform == "never"' >"$work/no-torch.txt"
for flavour in cpu gpu; do
    source=()
    [ "$flavour" = gpu ] || source=("${cpu_source[@]}")
    # uv keeps the versions of the file that it writes to: the other flavour's first, then this one's own.
    { cat "$work/shared.txt"; pins "$flavour.lock"; } | sort -t= -s -u -k1,1 >"$work/pins.txt"
    resolve "$flavour" "${PYTHONS[0]}" "$work/pins.txt" "${source[@]}" "$@"
    files=()
    for version in "${PYTHONS[@]}"; do
        files+=("$work/pylock.$flavour-${version/./}.toml")
        # A version that this Python refuses ends the command here: pin another one in the .in file.
        resolve "$flavour" "$version" "${files[-1]}" "${source[@]}" --constraints "$work/pins.txt"
        # A folder has torch for this machine's Python only. For the others its hash is the one in the lock.
        [ "$flavour" = gpu ] || [ -z "$links" ] || source+=(--overrides "$work/no-torch.txt")
    done
    "$python" ../scripts/lock.py "$flavour.lock" "${files[@]}"
    pins "$flavour.lock" >"$work/shared.txt"
done
