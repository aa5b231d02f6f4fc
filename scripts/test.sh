#!/usr/bin/env bash
# Run every test that needs no GPU, in the environment of scripts/install.sh.
# Arguments go to pytest: bash scripts/test.sh -k masking, or bash scripts/test.sh -m unit for the fast tier.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/install.sh"
cd "$root"
# Once per clone, and here rather than in the first test that needs it.
.venv/bin/python scripts/convert_model.py --output models/smollm2-135m-instruct
exec .venv/bin/python -m pytest tests -m "not gpu" --durations=25 "$@"
