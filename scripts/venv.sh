#!/usr/bin/env bash
# Makes .venv from the locked requirements: scripts/venv.sh [--dev]. Safe to repeat; does nothing when nothing changed.
# MCPBRIDGE_PYTHON chooses the interpreter; otherwise the newest CPython >= 3.11 on PATH that can make an environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lock=requirements.lock
[ "${1:-}" = --dev ] && lock=requirements-dev.lock

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

choose() {
  local candidate
  for candidate in ${MCPBRIDGE_PYTHON:+"$MCPBRIDGE_PYTHON"} python3.14 python3.13 python3.12 python3.11 python3; do
    if "$1" "$candidate"; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

if ! { [ -x .venv/bin/python ] && recent .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
  if ! python=$(choose usable); then
    if ! choose recent >/dev/null; then
      echo "scripts/venv.sh: no Python >= 3.11 on PATH (Debian 12: apt-get install python3 python3-venv)" >&2
      exit 69
    fi
    # Debian keeps ensurepip in a package of its own.
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv ca-certificates; } >&2
    fi
    if ! python=$(choose usable); then
      echo "scripts/venv.sh: Python has no ensurepip; as root: apt-get install python3-venv" >&2
      exit 69
    fi
  fi
  rm -rf .venv
  "$python" -m venv .venv
fi

wanted=$(cat "$lock" pyproject.toml | sha256sum | cut -d' ' -f1)
if [ "$(cat ".venv/.$lock" 2>/dev/null || true)" != "$wanted" ]; then
  echo "installing $lock into .venv ($(.venv/bin/python --version))" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . >&2
  rm -f .venv/.requirements*.lock
  echo "$wanted" >".venv/.$lock"
  # The development environment holds everything the product needs.
  if [ "$lock" = requirements-dev.lock ]; then
    cat requirements.lock pyproject.toml | sha256sum | cut -d' ' -f1 >.venv/.requirements.lock
  fi
fi
