#!/usr/bin/env bash
# Runs a whole Graticule on loopback: a control plane, two agents of two workers each, and Envoy in front. `make demo` calls it
# after it has installed, built and made what is needed. It stays until Ctrl-C, then drains and stops all that it started.
#
# Every port is a variable, so that two can run side by side; GRATICULE_PORT_SHIFT moves all of them at once.

set -euo pipefail
cd "$(dirname "$0")/.."

SHIFT=${GRATICULE_PORT_SHIFT:-0}
HTTP_PORT=${GRATICULE_HTTP_PORT:-$((9080 + SHIFT))}
ENVOY_ADMIN_PORT=${GRATICULE_ENVOY_ADMIN_PORT:-$((9901 + SHIFT))}
XDS_PORT=${GRATICULE_XDS_PORT:-$((18000 + SHIFT))}
FLEET_PORT=${GRATICULE_FLEET_PORT:-$((18001 + SHIFT))}
STATUS_PORT=${GRATICULE_STATUS_PORT:-$((18002 + SHIFT))}
# The second agent's three ports lie ten above the first one's.
AGENT_PORT=${GRATICULE_AGENT_PORT:-$((23456 + SHIFT))}
PROJECTS=${GRATICULE_PROJECTS:-$PWD/.parts/projects}

BIN=${CARGO_TARGET_DIR:-target}/debug
HOME_DIR=.parts/demo-$HTTP_PORT
PATIENCE=60

declare -A PID=()
STARTED=()

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

free_port() {
  local port=$1 variable=$2
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    fail "port $port is in use: stop who uses it ('ss -ltnp sport = :$port' tells), or set $variable (or GRATICULE_PORT_SHIFT=100) and run this again"
  fi
}

start() {
  local name=$1
  shift
  "$@" >"$HOME_DIR/$name.log" 2>&1 &
  PID[$name]=$!
  STARTED+=("$name")
}

alive() { kill -0 "${PID[$1]}" 2>/dev/null; }

# Ends one process politely, waits for it, and insists when it does not hear.
end() {
  local name=$1 waited=0
  alive "$name" || return 0
  kill -TERM "${PID[$name]}" 2>/dev/null || true
  while alive "$name" && [ $waited -lt 150 ]; do
    sleep 0.1
    waited=$((waited + 1))
  done
  alive "$name" && kill -KILL "${PID[$name]}" 2>/dev/null
  wait "${PID[$name]}" 2>/dev/null || true
}

stopping=no
stop_all() {
  [ $stopping = no ] || return 0
  stopping=yes
  trap '' INT TERM
  [ ${#STARTED[@]} -eq 0 ] && return 0
  say ""
  say "Stopping: the agents finish what they have, then Envoy and the control plane go."
  # Agents drain side by side while Envoy still answers for them.
  local name waiters=()
  for name in "${STARTED[@]}"; do
    [[ $name == agent-* ]] && { end "$name" & waiters+=($!); }
  done
  [ ${#waiters[@]} -eq 0 ] || wait "${waiters[@]}" || true
  for name in envoy control-plane; do
    [ -n "${PID[$name]:-}" ] && end "$name"
  done
  say "Stopped. Logs stay in $HOME_DIR."
}
trap stop_all EXIT
trap 'exit 0' INT TERM

show_failure() {
  local name=$1
  printf 'error: %s has ended. The last lines of %s:\n' "$name" "$HOME_DIR/$name.log" >&2
  tail -n 12 "$HOME_DIR/$name.log" >&2
  exit 1
}

agent() {
  local name=$1 grpc=$2
  start "$name" env \
    CONF_WORKER__NAME="$name" CONF_WORKER__NUM_PROCESSES=2 \
    CONF_WORKER__STATE_DIR="$PWD/$HOME_DIR/$name" \
    CONF_WORKER__QGIS__PROJECTS__SEARCH_PATHS="{\"/\": \"$PROJECTS\"}" \
    CONF_SERVER__GRPC_LISTEN="127.0.0.1:$grpc" \
    CONF_SERVER__HTTP_LISTEN="127.0.0.1:$((grpc + 1))" \
    CONF_SERVER__METRICS_LISTEN="127.0.0.1:$((grpc + 2))" \
    CONF_FLEET__CONTROL_PLANE="http://127.0.0.1:$FLEET_PORT" \
    "$BIN/worker-agent" serve
}

for part in "$BIN/control-plane" "$BIN/worker-agent" .parts/envoy "$PROJECTS"; do
  [ -e "$part" ] || fail "$part is not there: run 'make demo', which makes it"
done
free_port "$HTTP_PORT" GRATICULE_HTTP_PORT
free_port "$ENVOY_ADMIN_PORT" GRATICULE_ENVOY_ADMIN_PORT
free_port "$XDS_PORT" GRATICULE_XDS_PORT
free_port "$FLEET_PORT" GRATICULE_FLEET_PORT
free_port "$STATUS_PORT" GRATICULE_STATUS_PORT
for offset in 0 1 2 10 11 12; do free_port $((AGENT_PORT + offset)) GRATICULE_AGENT_PORT; done

mkdir -p "$HOME_DIR"
sed -e "s/port_value: 18000/port_value: $XDS_PORT/" -e "s/port_value: 9901/port_value: $ENVOY_ADMIN_PORT/" \
  envoy/bootstrap.yaml >"$HOME_DIR/bootstrap.yaml"

start control-plane env \
  CONF_XDS__LISTEN="127.0.0.1:$XDS_PORT" CONF_FLEET__LISTEN="127.0.0.1:$FLEET_PORT" \
  CONF_STATUS__LISTEN="127.0.0.1:$STATUS_PORT" CONF_FRONT__LISTEN="127.0.0.1:$HTTP_PORT" \
  CONF_STORE__DIR="$PWD/$HOME_DIR/control-plane" \
  "$BIN/control-plane" serve
agent agent-1 "$AGENT_PORT"
agent agent-2 $((AGENT_PORT + 10))
start envoy .parts/envoy --config-path "$HOME_DIR/bootstrap.yaml" --disable-hot-restart --concurrency 2 --log-level warning

BASE=http://127.0.0.1:$HTTP_PORT
MAP="$BASE/?MAP=/world&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=root&CRS=EPSG:4326&BBOX=-90,-180,90,180&WIDTH=1200&HEIGHT=600&FORMAT=image/png"
began=$SECONDS
until curl --silent --fail --max-time 20 --output /dev/null "$MAP"; do
  for name in "${STARTED[@]}"; do alive "$name" || show_failure "$name"; done
  [ $((SECONDS - began)) -lt $PATIENCE ] || fail "no map after $PATIENCE s; see the logs in $HOME_DIR"
  [ -t 1 ] && printf '\r  starting … %d s' $((SECONDS - began))
  sleep 0.3
done
[ -t 1 ] && printf '\r'

cat <<TXT
Graticule is running (ready after $((SECONDS - began)) s). What runs where:

  Envoy            pid ${PID[envoy]}  $BASE  (admin: http://127.0.0.1:$ENVOY_ADMIN_PORT)
  control plane    pid ${PID[control-plane]}  status page: http://127.0.0.1:$STATUS_PORT/
  agent-1          pid ${PID[agent-1]}  metrics: http://127.0.0.1:$((AGENT_PORT + 2))/metrics
  agent-2          pid ${PID[agent-2]}  metrics: http://127.0.0.1:$((AGENT_PORT + 12))/metrics
  logs             $HOME_DIR/*.log

Open in a browser, or in QGIS as a WMS, WFS, WCS or OGC API Features connection:

  a map            $MAP
  capabilities     $BASE/?MAP=/world&SERVICE=WMS&REQUEST=GetCapabilities
  the same by path $BASE/ows/world?SERVICE=WMS&REQUEST=GetCapabilities
  features         $BASE/ows/world/wfs3/collections

See the workers, then kill one while it renders and reload the map:

  $BIN/worker-agent stats --host 127.0.0.1:$AGENT_PORT
  kill -9 PID
  grep 'a worker' $HOME_DIR/agent-1.log

Keep a project loaded in every worker, for good:

  $BIN/worker-agent cache pin /atlas150 --host 127.0.0.1:$AGENT_PORT

Ctrl-C stops everything.
TXT

while true; do
  for name in "${STARTED[@]}"; do alive "$name" || show_failure "$name"; done
  sleep 0.5
done
