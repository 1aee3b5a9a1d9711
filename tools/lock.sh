#!/bin/bash
# Pins every Python package, once per supported torch minor, from requirements.in. Run it when that
# file or a torch release changes; `TORCH=2.15 make setup` then takes requirements-torch2.15.lock.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$(command -v uv || echo build/tools/uv/bin/uv)
for torch in 2.14.1 2.15.0; do
  lock=requirements-torch${torch%.*}.lock
  { echo "torch==$torch" && cat requirements.in; } |
    "$uv" pip compile -q --no-header --no-annotate --python .venv/bin/python - -o "$lock"
  echo "lock: wrote $lock" >&2
done
