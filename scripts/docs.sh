#!/usr/bin/env bash
# The documentation as a site, in the environment of scripts/install.sh. A link, heading or page that isn't there fails.
#
#   bash scripts/docs.sh           builds build/docs; open build/docs/index.html
#   bash scripts/docs.sh serve     shows it on http://127.0.0.1:8000 and builds it again when a page changes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/install.sh
case "$*" in
    "") NO_MKDOCS_2_WARNING=1 exec .venv/bin/python -m mkdocs build --strict --quiet ;;
    serve) NO_MKDOCS_2_WARNING=1 exec .venv/bin/python -m mkdocs serve --strict ;;
    *) echo "docs: expected serve or nothing, got: $*" >&2; exit 2 ;;
esac
