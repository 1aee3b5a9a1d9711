#!/bin/bash
# Makes the machine ready to build: Debian packages, tools, .venv with the pinned Python packages.
# Quick when nothing is to be done; a run that was stopped in the middle is simply run again.
#
#   PYTHON=python3.12 tools/setup.sh    another interpreter than python3 (remakes .venv if needed)
#   TORCH=2.15 tools/setup.sh           another torch minor; it stays until another one is asked for
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }
stop() {
  say "$*"
  exit 1
}
last_error() { grep -iE "^(e:|error|.*(error|failed|denied|no space)).*" "$1" | tail -1 || true; }
need() {  # need <command> <package>
  command -v "$1" >/dev/null || stop "'$1' is missing; install it with: apt-get install -y $2"
}

may_install() {
  command -v apt-get >/dev/null && { [[ $EUID -eq 0 ]] || sudo -n true 2>/dev/null; }
}

missing_packages() {
  local package sign
  while read -r package sign; do
    [[ -z "$package" || "$package" == \#* || -e "$sign" ]] && continue
    command -v "$sign" >/dev/null && continue
    [[ "$package" == \?* ]] && ! may_install && continue
    echo "${package#\?}"
  done <packages.debian.txt
  # What Debian's own interpreter may lack.
  [[ "$(command -v "$PYTHON")" == /usr/bin/* ]] || return 0
  "$PYTHON" -c 'import pip' 2>/dev/null || command -v uv >/dev/null || echo python3-pip
  "$PYTHON" -c 'import os, sysconfig
raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    echo python3-dev
}

install_packages() {
  local missing run=(apt-get)
  mapfile -t missing < <(missing_packages)
  [[ ${#missing[@]} -eq 0 ]] && return
  local by_hand="apt-get install -y --no-install-recommends ${missing[*]}"
  command -v apt-get >/dev/null ||
    stop "missing (by their Debian names): ${missing[*]}; install them with your package manager"
  if [[ $EUID -ne 0 ]]; then
    sudo -n true 2>/dev/null || stop "missing: ${missing[*]}; run as root: $by_hand"
    run=(sudo -n apt-get)
  fi
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  if ! { "${run[@]}" update -qq && "${run[@]}" install -y -qq --no-install-recommends \
    "${missing[@]}"; } </dev/null >build/apt.log 2>&1; then
    stop "could not install packages here ($(tail -1 build/apt.log)); run as root: $by_hand"
  fi
}

find_uv() {  # a fast installer: the system's, or a copy of our own
  local own=$PWD/build/tools/uv
  if command -v uv; then return; fi
  if ! "$own/bin/uv" --version >/dev/null 2>&1; then
    rm -rf "$own"
    "$PYTHON" -c 'import pip' 2>/dev/null ||
      stop "'$PYTHON -m pip' does not work; install it with: apt-get install -y python3-pip"
    say "fetching uv"
    "$PYTHON" -m pip install -q --disable-pip-version-check --target "$own" uv >build/pip.log 2>&1 ||
      stop "could not fetch uv (offline? see build/pip.log): $(last_error build/pip.log)"
  fi
  echo "$own/bin/uv"
}

python_works() {  # is .venv whole, and of the interpreter that was asked for?
  .venv/bin/python -c pass 2>/dev/null || return 1
  [[ -z "$asked" ]] && return
  local version='import sys; print(sys.version_info[:3])'
  [[ "$("$PYTHON" -c "$version")" == "$(.venv/bin/python -c "$version")" ]]
}

install_python() {
  local uv
  uv=$(find_uv)
  # A home that can not be written to must not stop us.
  [[ -w "${UV_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-/nonexistent}}}" ]] ||
    export UV_CACHE_DIR=$PWD/build/uv-cache
  if ! python_works; then
    say "making .venv"
    rm -rf .venv
    "$uv" venv -q --python "$PYTHON" .venv >build/pip.log 2>&1 ||
      stop "could not make .venv (build/pip.log): $(last_error build/pip.log)"
  fi
  say "installing Python packages (torch is large)"
  export VIRTUAL_ENV=$PWD/.venv
  # The second one gives the entry points without building: CMake puts the extension into papilio/.
  if ! { "$uv" pip install -q -r "$lock" &&
    PAPILIO_SKIP_CMAKE=1 "$uv" pip install -q --no-deps --no-build-isolation -e .; } \
    >build/pip.log 2>&1; then
    stop "could not install Python packages (offline? see build/pip.log): $(last_error build/pip.log)"
  fi
}

asked=${PYTHON:-}
PYTHON=${PYTHON:-python3}
[[ -w . ]] && mkdir -p build 2>/dev/null && [[ -w build ]] ||
  stop "no write access to $PWD; make a copy that you own"
need "$PYTHON" python3
torch=${TORCH:-$(cat .venv/.papilio-torch 2>/dev/null || echo 2.14)}
lock=requirements-torch$torch.lock
[[ -e $lock ]] || stop "no $lock here; supported: $(echo requirements-torch*.lock)"
stamp=$(sha256sum "$lock" packages.debian.txt pyproject.toml setup.py tools/setup.sh)
ready() { [[ "$(cat .venv/.papilio-stamp 2>/dev/null)" == "$stamp" ]] && python_works; }
if ready; then exit 0; fi
exec 9>build/setup.lock
flock 9  # two makes at once: the second one waits and finds everything done
if ready; then exit 0; fi

need make make
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  stop "Python 3.10 or newer is needed, $PYTHON is $("$PYTHON" -V 2>&1); set PYTHON=..."
install_packages
g++ -std=c++20 -fsyntax-only -x c++ - 2>/dev/null <<<$'#include <compare>\n#include <span>' ||
  stop "g++ 11 or newer is needed, this is $(g++ -dumpfullversion)"
install_python
echo "$torch" >.venv/.papilio-torch
echo "$stamp" >.venv/.papilio-stamp
say "ready"
