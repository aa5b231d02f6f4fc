#!/usr/bin/env bash
# Run every test that needs no GPU, in the environment of scripts/install.sh.
# Arguments go to pytest: bash scripts/test.sh -k masking, or, for the fast tier alone, on all cores,
# bash scripts/test.sh -m unit -n auto --dist loadfile. Other tiers need the machine to themselves: no -n for them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/install.sh"
cd "$root"
# Once per clone, and here rather than in the first test that needs it.
.venv/bin/python scripts/convert_model.py --output models/smollm2-135m-instruct
exec .venv/bin/python -m pytest tests -m "not gpu" --durations=25 "$@"
