#!/bin/bash
# Makes the machine ready to build: tools, Debian packages, .venv. Quick when nothing is to be done.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }
need() {  # need <command> <package>
  command -v "$1" >/dev/null && return
  say "'$1' is missing; install it with: apt-get install -y $2"
  exit 1
}

install_packages() {
  local missing=() package
  while read -r package; do
    [[ -z "$package" || "$package" == \#* ]] && continue
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok" || missing+=("$package")
  done <packages.debian.txt
  [[ ${#missing[@]} -eq 0 ]] && return
  local run=(apt-get)
  [[ $EUID -ne 0 ]] && run=(sudo -n apt-get)
  local command="${run[*]} install -y --no-install-recommends ${missing[*]}"
  say "installing ${missing[*]}"
  if ! { "${run[@]}" update -qq && DEBIAN_FRONTEND=noninteractive "${run[@]}" install -y -qq \
    --no-install-recommends "${missing[@]}"; } >build/apt.log 2>&1; then
    say "could not install them here (build/apt.log); run: $command"
    exit 1
  fi
}

find_uv() {  # a fast installer; from the system, or a copy of our own
  command -v uv && return
  if [[ ! -x build/tools/uv/bin/uv ]]; then
    say "fetching uv"
    "$PYTHON" -m pip install -q --target build/tools/uv uv >&2 || {
      say "'$PYTHON -m pip' does not work; install it with: apt-get install -y python3-pip"
      exit 1
    }
  fi
  echo "$PWD/build/tools/uv/bin/uv"
}

PYTHON=${PYTHON:-python3}
mkdir -p build
need "$PYTHON" python3
need make make
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  say "Python 3.10 or newer is needed, this is $("$PYTHON" -V); set PYTHON=..."
  exit 1
}
stamp=$(cat requirements.lock packages.debian.txt pyproject.toml tools/setup.sh | sha256sum)
if [[ -x .venv/bin/python && "$(cat .venv/.papilio-stamp 2>/dev/null)" == "$stamp" ]]; then
  exit 0
fi
if command -v dpkg-query >/dev/null; then install_packages; fi
need g++ g++
need cmake cmake
need ninja ninja-build
UV=$(find_uv)
if [[ ! -x .venv/bin/python ]]; then
  say "making .venv"
  "$UV" venv -q --python "$PYTHON" .venv
fi
say "installing Python packages (torch is large)"
VIRTUAL_ENV=$PWD/.venv "$UV" pip install -q -r requirements.lock
# Entry points without building anything: the extension is built by CMake into papilio/.
PAPILIO_SKIP_CMAKE=1 VIRTUAL_ENV=$PWD/.venv "$UV" pip install -q --no-deps --no-build-isolation -e .
echo "$stamp" >.venv/.papilio-stamp
say "ready"
