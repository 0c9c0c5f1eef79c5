#!/usr/bin/env bash
# The quick check, at most 90 seconds: lint, format, types, the house's rules, unit tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/venv.sh --dev
exec .venv/bin/python scripts/stages.py T0 "$@"
