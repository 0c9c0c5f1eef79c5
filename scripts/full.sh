#!/usr/bin/env bash
# Everything with full counts, benchmarks included (about an hour and a quarter). Run it on a committed tree before a release; the
# verdict and the raw numbers go to tests/results/<commit>.json.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/system.sh
scripts/venv.sh --dev
exec .venv/bin/python scripts/stages.py T2 --record "$@"
