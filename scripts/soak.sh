#!/usr/bin/env bash
# Run the fault suite and the short chaos tests again and again beside a load: `scripts/soak.sh 20`. Two busy loops for each
# CPU, and one that writes memory, are the load (`stress` where it is installed). Further arguments go to pytest.
# PYTHON says which interpreter has pytest; default: that of `.venv`, else python3.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rounds=${1:-20}
[ $# -eq 0 ] || shift
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}

load=()
trap 'for pid in "${load[@]}"; do kill -9 -- "-$pid" 2>/dev/null || true; done' EXIT
cpus=$(nproc)
if command -v stress >/dev/null; then
  setsid stress --cpu "$((2 * cpus))" --vm 1 --vm-bytes 256M --quiet </dev/null &
  load+=($!)
else
  for _ in $(seq "$((2 * cpus))"); do
    setsid sh -c 'while :; do :; done' </dev/null &
    load+=($!)
  done
fi

failed=0
for round in $(seq "$rounds"); do
  began=$SECONDS
  if timeout 1800 "$python" -m pytest -q -p no:cacheprovider tests/faults tests/system/test_chaos.py "$@" >"${TMPDIR:-/tmp}/soak.$round.log" 2>&1
  then verdict=passed; else verdict=FAILED; failed=$((failed + 1)); fi
  printf 'round %s: %s after %s s: %s\n' "$round" "$verdict" "$((SECONDS - began))" "$(tail -n 1 "${TMPDIR:-/tmp}/soak.$round.log")"
done
printf '%s of %s rounds failed\n' "$failed" "$rounds"
[ "$failed" -eq 0 ]
