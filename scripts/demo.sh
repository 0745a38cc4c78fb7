#!/usr/bin/env bash
# Set up, and run the main job on real input: the several hundred source files of this Python's own standard library are
# compressed by a shell command and counted by a Python function, each spread over all CPUs. See examples/demo.py.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH # run this checkout, not one that lies elsewhere

bash scripts/setup.sh
exec .venv/bin/python examples/demo.py "$@"
