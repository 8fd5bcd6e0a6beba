#!/bin/sh
# Puts Debian's Prometheus and promtool into .parts/prometheus, unpacked from the package and not installed: no service
# starts, and root is not needed. Does nothing when they are there.
set -eu
target="$(cd "$(dirname "$0")/../.." && pwd)/.parts/prometheus"
mkdir -p "$target"
exec 9> "$target/lock"
flock 9
[ -x "$target/prometheus" ] && [ -x "$target/promtool" ] && exit 0

if [ -x /usr/bin/prometheus ] && [ -x /usr/bin/promtool ]; then
    ln -sf /usr/bin/prometheus /usr/bin/promtool "$target/"
    exit 0
fi
echo "fetching Prometheus (20 MB) from the machine's Debian mirror" >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
(cd "$work" && apt-get -q -o APT::Sandbox::User="$(id -un)" download prometheus > log 2>&1) || {
    cat "$work/log" >&2
    echo "error: the package prometheus could not be fetched: run 'apt-get update', or install it" >&2
    exit 1
}
dpkg-deb -x "$work"/prometheus_*.deb "$work/unpacked"
mv "$work/unpacked/usr/bin/prometheus" "$work/unpacked/usr/bin/promtool" "$target/"
