#!/usr/bin/env bash
# Check ophnet-ray on a machine with a GPU: no Ray, no registry, under 8 minutes. See README.md here.
# Usage: OUT=FOLDER tests/gpu/run.sh [--toy] [--models NAME...] [--parts PART...] [--limit SECONDS]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
out=${OUT:-$(mktemp -d)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/site" "$work/path/tests"

# Packages that this machine lacks. What cannot be installed is named below, if it is needed.
if compgen -G '.whl/*.whl' > /dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
    --target "$work/site" .whl/*.whl || echo "some wheels of .whl/ cannot be installed" >&2
fi

# An installed package named "tests" would hide this folder, which has no __init__.py.
touch "$work/path/tests/__init__.py"
ln -s "$PWD/tests/gpu" "$PWD/tests/helpers" "$work/path/tests/"
export PYTHONPATH="$work/path:$PWD:$work/site${PYTHONPATH:+:$PYTHONPATH}"
# compiled code stays for the next call on this machine
export TORCHINDUCTOR_CACHE_DIR="${TORCHINDUCTOR_CACHE_DIR:-$PWD/runs/gpu-compiled}"
export HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

"$python" -m tests.gpu --out "$out" --work "$work" "$@"
