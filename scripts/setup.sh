#!/usr/bin/env bash
# Make a virtual environment with manyhands in it. Does nothing, and needs no network, when it is there already.
#
#   scripts/setup.sh [--extras dev] [--venv .venv] [--python python3.12]
#
# It needs Python 3.11 or newer with pip, and nothing else: Debian's Python comes without ensurepip, so `python3 -m venv`
# fails there; then the environment is made without pip, and the pip of the system puts one in.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras="" venv=.venv python="${PYTHON:-}"
while [ $# -gt 0 ]; do
  case "$1" in
    --extras) extras=$2; shift 2 ;;
    --venv) venv=$2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    *) echo "setup.sh: unknown argument $1" >&2; exit 2 ;;
  esac
done

# A user's settings for pip that would send the packages elsewhere.
unset PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

say() { printf '%s\n' "$*" >&2; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

if [ -z "$python" ]; then
  for candidate in python3 python3.11 python3.12 python3.13 python3.14; do
    if is_new_enough "$candidate"; then python=$candidate; break; fi
  done
fi
if [ -z "$python" ] || ! is_new_enough "$python"; then
  say "setup.sh: manyhands needs Python 3.11 or newer${python:+, and $python is not}. Install one, or name it: PYTHON=/path/to/python3.11 $0"
  exit 1
fi

# The stamp says for what the environment was made; as long as that holds there is nothing to do.
identity() { "$1" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null; }
stamp=$venv/.manyhands-${extras:-base}
wanted="$(identity "$python") $PWD $(cat pyproject.toml src/manyhands/version.py | cksum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$venv/bin/python" -c 'import manyhands' >/dev/null 2>&1; then
  exit 0
fi

has_pip() { "$venv/bin/python" -m pip --version >/dev/null 2>&1; }

clear_venv() {
  if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
    say "setup.sh: $venv is in the way and is not a virtual environment: move it, then try again"
    exit 1
  fi
  rm -rf "$venv"
}

with_ensurepip() { "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 && "$python" -m venv "$venv"; }
with_pip_from_outside() { "$python" -m venv --without-pip "$venv" && "$python" -m pip --python "$venv/bin/python" install -qq pip; }
with_virtualenv() {
  # pip before 22.3 has no --python. --target touches nothing of the system's, so an "externally managed" one allows it.
  local borrowed status=0
  borrowed=$(mktemp -d) || return 1
  { "$python" -m pip install -qq --target "$borrowed" virtualenv &&
    PYTHONPATH=$borrowed "$python" -m virtualenv -q "$venv"; } || status=$?
  rm -rf "$borrowed"
  return $status
}

make_venv() {
  local way log
  log=$(mktemp)
  for way in with_ensurepip with_pip_from_outside with_virtualenv; do
    clear_venv
    if "$way" >>"$log" 2>&1 && has_pip; then rm -f "$log"; return 0; fi
  done
  cat "$log" >&2
  rm -f "$log"
  say "setup.sh: no way to a virtual environment worked: $python needs ensurepip (Debian: python3-venv) or pip (python3-pip)," \
      "and PyPI must be within reach"
  return 1
}

say "setting up $venv${extras:+ for $extras} (once; it may take a minute)"
if ! has_pip || [ "$(identity "$venv/bin/python")" != "$(identity "$python")" ]; then make_venv; fi
"$venv/bin/python" -m pip install -qq -e ".${extras:+[$extras]}" >&2
printf '%s' "$wanted" >"$stamp"
