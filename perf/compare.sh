#!/usr/bin/env bash
# The broker beside the speed of light, as a table in perf/results/.
#
#   perf/compare.sh [--only ROW,..] [--quick] [--rounds N] [--name NAME] [--out FILE]
#
# Needs release builds (just build-perf). perf/README.md says what the rows mean.

set -euo pipefail

cd "$(dirname "$0")/.."
for program in tidelog tidelog-load speed-of-light shard-loop; do
    if [ ! -x "${CARGO_TARGET_DIR:-target}/release/$program" ]; then
        echo "error: ${CARGO_TARGET_DIR:-target}/release/$program is not built; run: just build-perf" >&2
        exit 1
    fi
done
exec python3 -u perf/compare.py "$@"
