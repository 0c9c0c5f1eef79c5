#!/usr/bin/env bash
# Sets up and runs all tests that run on every change: the quick check, then real peers, attacks, the build, the quickstart.
# Options are those of scripts/stages.py (--only NAME, --skip NAME). As root it installs the system packages it needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/system.sh
scripts/venv.sh --dev
exec .venv/bin/python scripts/stages.py T1 "$@"
