#!/usr/bin/env bash
# Set up, and pass the tests: format, lint, types, and all that pytest collects (layering, unit, property, conformance and
# system tests, the examples of the docs). Arguments go to pytest. Every check runs, whichever failed before.
#
# With CI or MANYHANDS_ALL_PYTHONS set, the tests that are not marked `slow` also run on the other supported interpreters
# that this machine has, each in an environment of its own; but for those of the pure core, in which nothing depends on the version,
# and for the fault suite, the command line and the docs' examples, which take minutes and run on the first and the newest.
#
# The tests wait more than they work, so there are as many sessions side by side as CPUs and one more; JOBS=1 for one alone.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH # test this checkout, not one that lies elsewhere

bash scripts/setup.sh --extras dev
bin=$PWD/.venv/bin
side_by_side="-n ${JOBS:-$(($("$bin/python" -c 'import os; print(os.cpu_count() or 1)') + 1))} --dist worksteal"
[ "${JOBS:-}" != 1 ] || side_by_side=""

failed=""
check() {
  local name=$1 began=$SECONDS
  shift
  printf '\n== %s\n' "$name"
  "$@" </dev/null || failed="$failed, $name"
  printf '== %s: %s s\n' "$name" "$((SECONDS - began))"
}

# Prints the path of CPython $1, when there is one that runs: a version manager's stand-in may be there and refuse.
find_python() {
  local candidate
  for candidate in "$(command -v "python$1" || true)" "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$1".*/bin/"python$1"; do
    if [ -n "$candidate" ] && "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" >/dev/null 2>&1; then
      printf '%s' "$candidate"
      return
    fi
  done
}

test_on() {
  bash scripts/setup.sh --extras test --venv ".venv-$1" --python "$2" &&
    ".venv-$1/bin/python" -m pytest -q $side_by_side -m "not slow" -p no:cacheprovider --ignore tests/core \
      $([ "$1" = 3.13 ] || echo --ignore tests/faults --ignore tests/cli --ignore tests/test_docs.py --ignore tests/test_examples.py)
}

check format "$bin/ruff" format --check .
check lint "$bin/ruff" check .
check types "$bin/mypy"

if [ -n "${CI:-}${MANYHANDS_ALL_PYTHONS:-}" ]; then
  first=$("$bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  for version in 3.11 3.12 3.13; do
    [ "$version" != "$first" ] || continue
    python=$(find_python "$version")
    if [ -n "$python" ]; then check "tests on Python $version" test_on "$version" "$python"; fi
  done
fi

check tests "$bin/python" -m pytest $side_by_side "$@"

if [ -n "$failed" ]; then
  printf '\nfailed: %s\n' "${failed#, }"
  exit 1
fi
printf '\nall checks passed\n'
