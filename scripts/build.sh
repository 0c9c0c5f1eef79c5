#!/usr/bin/env bash
# Builds dist/mcpbridge, one executable file (a zipapp) for this OS and architecture and all supported CPythons. The same
# sources and locks give the same bytes in any directory. MCPBRIDGE_BUILD_PYTHONS="3.11 3.13" builds for fewer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
umask 022
export LC_ALL=C PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Time stamps inside the archive: the last commit's, else a fixed day.
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 1767225600)
fi
export SOURCE_DATE_EPOCH

# An interpreter that has pip and the build backend: the one given, else an environment made for the purpose.
python=${MCPBRIDGE_BUILD_PYTHON:-}
if [ -z "$python" ]; then
  scripts/venv.sh --dev
  python=$PWD/.venv/bin/python
fi
read -r -a versions <<<"${MCPBRIDGE_BUILD_PYTHONS:-3.11 3.12 3.13 3.14}"

# Wheels that also run on older glibc: without a list pip takes the newest this machine can load.
platforms=()
case "$(uname -s)-$(uname -m)" in
  Linux-x86_64 | Linux-aarch64)
    if ! ldd --version 2>&1 | grep -qi musl; then
      for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010 manylinux_2_5 manylinux1; do
        platforms+=(--platform "${tag}_$(uname -m)")
      done
    fi
    ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
site=$work/site
mkdir "$site"
"$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work/wheel" .
for version in "${versions[@]}"; do
  "$python" -m pip install --quiet --target "$work/$version" --no-compile --no-deps --only-binary=:all: --require-hashes \
    --implementation cp --python-version "$version" ${platforms[@]+"${platforms[@]}"} -r requirements.lock
  # Pure files are the same for every version; compiled ones carry the version in their name.
  cp -Rn "$work/$version/." "$site/"
done
"$python" -m pip install --quiet --target "$work/own" --no-compile --no-deps "$work"/wheel/*.whl
cp -Rn "$work/own/." "$site/"

# What differs between directories and machines, or is of no use in the file.
rm -rf "$site/bin" "$site"/*.dist-info/{RECORD,INSTALLER,REQUESTED,direct_url.json,sboms}
# Accelerators of the control plane, which fall back to Python: they would be 6 MB of the file.
rm -f "$site"/yaml/_yaml.*.so "$site"/aiohttp/_websocket/*.so
find "$site" \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.h' -o -name '*.c' \) -delete
find "$site" -name __pycache__ -prune -exec rm -rf {} +

mkdir -p dist
"$python" packaging/pack.py "$site" "$work/mcpbridge"
mv "$work/mcpbridge" dist/mcpbridge
sha256sum dist/mcpbridge
wc -c dist/mcpbridge | awk '{printf "%.1f MB\n", $1 / 1e6}'
