#!/usr/bin/env bash
# The chaos suite with full counts: everything breaks under load, a checker looks at every call (about 40 minutes). What a change
# has to pass is the same stage in .ci/run, with short counts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/venv.sh --dev
exec .venv/bin/python scripts/stages.py T2 --only chaos "$@"
