#!/usr/bin/env bash
# From a fresh clone to working calls, one command: makes .venv, starts two demo servers and the gateway, sends calls through
# router -> gateway -> server and directly, and prints what went where and how fast. Ctrl-C stops everything.
# --check: the same, asserted, cleaned up, exit 0.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/venv.sh
exec .venv/bin/python scripts/quickstart.py "$@"
