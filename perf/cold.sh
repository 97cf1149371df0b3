#!/usr/bin/env bash
# A producer alone and beside a consumer of what is not in the page cache: a table in perf/results/
#
#   perf/cold.sh [--gib N] [--seconds N] [--rounds N] [--durability os|fsync] [--name NAME] [--out FILE]
#
# Needs release builds (just build-perf). perf/README.md says what the rows mean.

set -euo pipefail

cd "$(dirname "$0")/.."
for program in tidelog tidelog-load; do
    if [ ! -x "${CARGO_TARGET_DIR:-target}/release/$program" ]; then
        echo "error: ${CARGO_TARGET_DIR:-target}/release/$program is not built; run: just build-perf" >&2
        exit 1
    fi
done
exec python3 -u perf/cold.py "$@"
