# What people run each day; CI runs the same.  `just` alone lists it.

set shell := ["bash", "-euo", "pipefail", "-c"]

python := "target/e2e-venv/bin/python"

_default:
    @just --list

# The release build: target/release/tidelog, tidelog-history and tidelog-load
build:
    cargo build --release -p tidelog -p tidelog-bench

# A broker on localhost:9092 with its data in ./tidelog-data
serve *ARGS:
    cargo run --release -- serve {{ARGS}}

# All tests
test:
    cargo test --workspace

# Formatting and lints, as CI checks them
lint:
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets -- -D warnings

# Licences, advisories and sources of the dependencies (needs cargo-deny)
deny:
    cargo deny check

# Our protocol tables against Kafka's own schemas and errors (needs Maven and a JDK)
schemas:
    .ci/run schemas

# The fuzz targets of the wire for a number of executions and of the disk for a time (nightly compiler): just fuzz wire runs=1000; just fuzz segment seconds=600
fuzz *ARGS:
    #!/usr/bin/env bash
    set -euo pipefail
    arguments=()
    for argument in {{ARGS}}; do
        case "$argument" in
            runs=*) arguments+=(--runs "${argument#runs=}") ;;
            seconds=*) arguments+=(--seconds "${argument#seconds=}") ;;
            *) arguments+=("$argument") ;;
        esac
    done
    nice -n 19 fuzz/run.py "${arguments[@]+"${arguments[@]}"}"

# What must pass before a change lands
ci *PHASES:
    .ci/run {{PHASES}}

# The end-to-end checks that are enabled, on a release build
e2e:
    .ci/run release e2e

# Install what the end-to-end checks need: kcat, and confluent-kafka in target/e2e-venv
e2e-setup:
    command -v kcat >/dev/null || { apt-get update -qq && apt-get install -y -qq kcat; }
    test -x {{python}} || python3 -m venv target/e2e-venv
    {{python}} -m pip install --quiet "$(sed -n 's/^CONFLUENT_KAFKA_VERSION=/confluent-kafka==/p' .ci/run)"

# kcat and confluent-kafka with a million lines of text
clients lines="1000000": build e2e-setup
    {{python}} -u .ci/e2e/check_clients.py --lines {{lines}}

# Java, franz-go, kafka-python and KafkaJS (needs a JDK with Maven, Go and Node)
clients-all: build e2e-setup
    python3 -u .ci/e2e/check_more_clients.py

# What tools ask, by the admin clients of Java, confluent-kafka and kafka-python (needs a JDK with Maven)
clients-admin: build e2e-setup
    {{python}} -u .ci/e2e/check_admin.py

# kill -9 under load, again and again
kill9 rounds="50" *ARGS: build
    nice -n 19 python3 -u .ci/e2e/check_kill9.py --rounds {{rounds}} {{ARGS}}

# Real faults of devices, fsync, descriptors and files (as root): just faults 5, just faults 1 --only fuse
faults rounds="1" *ARGS: build
    python3 -u .ci/e2e/check_real_faults.py --rounds {{rounds}} {{ARGS}}

# Cuts of power on a loop file (as root): just powercut ext4, just powercut xfs --rounds 100
powercut filesystem *ARGS: build
    nice -n 19 .ci/e2e/powercut.sh {{filesystem}} {{ARGS}}

# The simulations of the log with many seeds, from where the last run ended; perf/results/simulation-seeds.txt is the book of them
sim seeds="2000" *ARGS:
    nice -n 19 python3 -u perf/sim.py --seeds {{seeds}} {{ARGS}}

# Release builds of the broker, the load generator and the speed-of-light servers
build-perf:
    cargo build --release -p tidelog -p tidelog-bench -p tidelog-perf

# The broker beside the speed of light: a table in perf/results/ (perf/README.md)
compare *ARGS: build-perf
    perf/compare.sh {{ARGS}}

# A producer beside a consumer of what is not in the page cache; fails on a major fault of a shard (perf/README.md)
cold *ARGS: build-perf
    perf/cold.sh {{ARGS}}

# How long a start takes, of many segments and after kill -9: a table in perf/results/ (perf/README.md)
start-times *ARGS: build e2e-setup
    {{python}} -u perf/start.py {{ARGS}}

# The broker's loop beside a bare ring, and under background work: a table in perf/results/
loop *ARGS: build-perf
    perf/compare.sh --only loop-1x1,loop-64x1,loop-1000x1,loop-1000x16,background --rounds 5 --name loop {{ARGS}}

# Acknowledgements under fsync at 200 MB/s, and 10,000 hot partitions beside 16: a table in perf/results/
log-reach *ARGS: build-perf
    python3 -u perf/log.py {{ARGS}}

# What the log adds to the writes it does, in CPU: 64 KiB batches through it and by bare gathered writes
append-cost *ARGS: build-perf
    #!/usr/bin/env bash
    set -euo pipefail
    dir="$(mktemp -d -p target)"
    trap 'rm -rf "$dir"' EXIT
    taskset -c 0 target/release/speed-of-light append-cost --dir "$dir" {{ARGS}}

# The load generator alone: just load produce -b localhost:9092 --create
load *ARGS:
    cargo run --release -q -p tidelog-bench --bin tidelog-load -- {{ARGS}}

# Where the time goes under produce, consume or requests: target/flamegraph/ (needs perf)
flamegraph LOAD *ARGS: build-perf
    python3 -u perf/flamegraph.py {{LOAD}} {{ARGS}}

# Criterion benches of the log, the protocol and the rings between shards
bench *ARGS:
    cargo bench -p tidelog-segment-log -p tidelog-net -p tidelog-core -- {{ARGS}}

# Every bit of a small data directory, and every pair of damaged files (minutes)
damage:
    TIDELOG_DAMAGE=all cargo test -p tidelog-segment-log --release --test damage_is_found_and_nothing_is_deleted -- --nocapture

# What a commit costs over 1 to 10,000 dirty partitions, by synced segments and by the journal: just bench-commit DIR
bench-commit DIR="target":
    ulimit -n "$(ulimit -Hn)"; TIDELOG_BENCH_DIR="$(realpath "{{DIR}}")" cargo bench -p tidelog-segment-log --bench commit
