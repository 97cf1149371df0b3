#!/usr/bin/env bash
# First figures of a release build, written as a table to perf/results/.
#
#   perf/first-figures.sh [--gib N] [--out FILE]
#
# Needs target/release/tidelog (just build). Run on a machine that does nothing else: CPU time per GiB is
# steady, wall rates and start times are not.

set -euo pipefail

cd "$(dirname "$0")/.."
if [ ! -x "${TIDELOG_BIN:-target/release/tidelog}" ]; then
    echo "error: target/release/tidelog is not built; run: cargo build --release" >&2
    exit 1
fi
exec python3 -u perf/first_figures.py "$@"
