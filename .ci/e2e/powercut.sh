#!/usr/bin/env bash
# A cut of power for real, on a file system of its own in a loop file.
#
#   powercut.sh ext4|xfs [--rounds N] [--seed S] [--journal] [--retain] [--recycle]
#
# Run as root on a quiet machine; not part of .ci/run. Needs target/release/tidelog and tidelog-history.
# Installs xfsprogs when xfs is asked for and mkfs.xfs is missing. What it does and why that is a power cut
# stands at the head of powercut.py.

set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
filesystem="${1:-}"
case "$filesystem" in
    ext4 | xfs) ;;
    *)
        echo "usage: powercut.sh ext4|xfs [--rounds N] [--seed S] [--journal] [--retain] [--recycle]" >&2
        exit 2
        ;;
esac
if [ "$(id -u)" -ne 0 ]; then
    echo "error: powercut.sh mounts loop devices and so must run as root" >&2
    exit 1
fi
if ! command -v "mkfs.$filesystem" >/dev/null 2>&1; then
    case "$filesystem" in
        xfs) package=xfsprogs ;;
        *) package=e2fsprogs ;;
    esac
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package"
fi
exec python3 -u "$here/powercut.py" "$@"
