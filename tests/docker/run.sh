#!/bin/bash
# Runs compose.yaml in a real Docker Engine: `make test-docker`, as root, on Debian 12 or 13, in about ten minutes the
# first time and two later. It needs no image registry: the base image is made from Debian's packages, and the programs are
# those of `cargo build` and .parts/envoy. What it makes stays in .parts/docker, for the next time.
#
# Ports: GRATICULE_HTTP_PORT (19080), GRATICULE_STATUS_PORT (19002), GRATICULE_PROMETHEUS_PORT (19090).

set -euo pipefail
cd "$(dirname "$0")/../.."
PARTS="$PWD/.parts"

step() { printf '\n== %s\n' "$*"; }
fail() { printf '\ntests/docker/run.sh: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "a Docker Engine needs root: run it with sudo"
[ -x "$PARTS/envoy" ] || fail "there is no .parts/envoy: run 'make demo' or 'make test' once, which fetches it"

. tests/docker/engine.sh

export GRATICULE_HTTP_PORT="${GRATICULE_HTTP_PORT:-19080}" GRATICULE_STATUS_PORT="${GRATICULE_STATUS_PORT:-19002}"
export GRATICULE_PROMETHEUS_PORT="${GRATICULE_PROMETHEUS_PORT:-19090}"
export GRATICULE_PARTS="$ENGINE/parts" GRATICULE_PROJECTS="$ENGINE/parts/projects"
FRONT="http://127.0.0.1:$GRATICULE_HTTP_PORT"
MAP="SERVICE=WMS&VERSION=1.3.0&REQUEST=GetMap&LAYERS=countries&CRS=EPSG:4326&BBOX=-60,-120,60,120&WIDTH=400&HEIGHT=200&FORMAT=image/png"

compose() { docker compose -p graticule-test -f compose.yaml -f tests/docker/compose.yaml "$@"; }
agents() { compose ps -q worker-agent; }

finish() {
    local status=$?
    set +e
    if [ $status -ne 0 ]; then
        compose ps -a 2> /dev/null
        compose logs --tail 30 2> /dev/null
    fi
    step "stopping everything"
    compose --profile demo down -v --timeout 30 > "$ENGINE/down.log" 2>&1
    engine_stop
    [ $status -eq 0 ] && printf '\ntests/docker/run.sh: all checks passed\n'
    exit $status
}

# Waits until a command succeeds: until_true SECONDS WHAT COMMAND…
until_true() {
    local seconds=$1 what=$2 end
    shift 2
    end=$(($(date +%s) + seconds))
    until "$@"; do
        [ "$(date +%s)" -lt "$end" ] || fail "after $seconds s still not so: $what"
        sleep 0.3
    done
    echo "   $what"
}

# One safe request of the project number N; prints the status.
request() {
    local projects=(world points public/roads relief)
    curl -s -o /dev/null -m 30 -w '%{http_code}\n' \
        "$FRONT/?MAP=/${projects[$(($1 % 4))]}&SERVICE=WMS&REQUEST=GetCapabilities&n=$1"
}

# Runs a command while two clients send safe requests, until it has ended and for a second more. Fails when the command
# does, or when one request is not answered with 200.
all_good_during() {
    local client running=1 answers="$ENGINE/answers" log="$ENGINE/command.log" count good
    rm -f "$answers".* "$ENGINE/stop"
    for client in 1 2; do
        (n=$client; until [ -e "$ENGINE/stop" ]; do request "$n" >> "$answers.$client"; n=$((n + 1)); done) &
    done
    "$@" > "$log" 2>&1 || running=0
    sleep 1
    touch "$ENGINE/stop"
    wait $(jobs -p | grep -vx "$ENGINE_PID")
    count=$(cat "$answers".* | wc -l)
    good=$(cat "$answers".* | grep -c '^200$' || true)
    echo "   $count requests meanwhile, $good answered with 200"
    [ $running = 1 ] || { cat "$log" >&2; fail "this failed: $*"; }
    [ "$count" = "$good" ] || fail "answers were: $(cat "$answers".* | sort | uniq -c | tr '\n' ' ')"
    [ "$count" -ge 20 ] || fail "too few requests to mean anything"
}

is_a_map() {
    local file="$ENGINE/map.png"
    [ "$(curl -s -m 30 -o "$file" -w '%{http_code} %{content_type}' "$FRONT/?MAP=/world&$MAP")" = "200 image/png" ] &&
        [ "$(head -c 8 "$file" | od -An -tx1 | tr -d ' ')" = 89504e470d0a1a0a ] && [ "$(stat -c %s "$file")" -gt 5000 ]
}

ready_agents_are() {
    curl -s -m 5 "http://127.0.0.1:$GRATICULE_STATUS_PORT/metrics" | grep -q "^graticule_cp_agents{phase=\"ready\"} $1\$"
}

# The query's value as Prometheus in the stack sees it.
prometheus_says() {
    curl -s -m 5 --data-urlencode "query=$1" "http://127.0.0.1:$GRATICULE_PROMETHEUS_PORT/api/v1/query" |
        grep -q "\"value\":\[[0-9.]*,\"$2\"\]"
}

trap finish EXIT
mkdir -p "$ENGINE/binaries" "$ENGINE/parts"

step "building the programs"
cargo build -p graticule-worker-agent -p graticule-control-plane
for program in target/debug/worker-agent target/debug/control-plane "$PARTS/envoy"; do
    # Symbols are left out of the images.
    strip -o "$ENGINE/binaries/$(basename "$program")" "$program"
done

engine_start
engine_base_image

step "building the images"
compose --profile demo build

step "writing the demo projects, as a user of this id"
chown -R 1000:1000 "$GRATICULE_PARTS"
compose run --rm demo-projects

step "starting Envoy, the control plane, two agents and Prometheus"
compose up -d --wait --scale worker-agent=2 envoy control-plane worker-agent prometheus
until_true 30 "a map comes through Envoy" is_a_map
until_true 10 "two agents are ready" ready_agents_are 2
all_good_during sleep 2

step "nobody is root, and no file system but the declared can be written"
for container in $(compose ps -q); do
    user=$(docker inspect -f '{{.Config.User}}' "$container")
    case $user in '' | 0 | 0:* | root*) fail "container $container runs as '$user'" ;; esac
    docker exec "$container" sh -c 'touch /usr/x 2> /dev/null' && fail "container $container can write /usr"
done

step "Prometheus finds everybody by itself"
until_true 30 "two agents, Envoy and the control plane are scraped" prometheus_says 'count(up == 1)' 4
until_true 30 "Envoy's statistics are there" prometheus_says 'max(envoy_cluster_membership_healthy{envoy_cluster_name="pool/default"})' 2

step "a pin outlives its container"
compose exec -T --index 1 worker-agent worker-agent cache pin /world
compose up -d --wait --force-recreate --scale worker-agent=2 worker-agent
pins=$(compose exec -T --index 1 worker-agent worker-agent cache list)
echo "$pins"
grep -q '^/world  *yes' <<< "$pins" || fail "/world is no longer pinned"

step "killing one agent under load"
until_true 20 "two agents are ready" ready_agents_are 2
victim=$(agents | head -1)
killed_and_back() {
    sleep 1
    kill -9 "$(docker inspect -f '{{.State.Pid}}' "$victim")"
    until_true 20 "the control plane has seen it" ready_agents_are 1
    until_true 60 "the engine started it again" ready_agents_are 2
}
all_good_during killed_and_back
[ "$(docker inspect -f '{{.RestartCount}}' "$victim")" -ge 1 ] || fail "the killed agent was not restarted by the engine"

step "growing to three agents under load"
all_good_during compose up -d --wait --no-recreate --scale worker-agent=3 worker-agent
until_true 30 "three agents are ready" ready_agents_are 3
until_true 30 "Prometheus found the third" prometheus_says 'count(up{job="worker-agent"} == 1)' 3

step "shrinking to one agent under load"
all_good_during compose up -d --no-recreate --scale worker-agent=1 worker-agent
until_true 30 "one agent is left" ready_agents_are 1

step "recreating the control plane, with another address perhaps, under load: the fleet's pins outlive it"
compose exec -T control-plane control-plane pins add /world
all_good_during compose up -d --wait --no-deps --force-recreate control-plane
until_true 30 "the agent has found it again" ready_agents_are 1
until_true 30 "Envoy has found it again" prometheus_says 'graticule_xds_clients' 1
pins=$(compose exec -T control-plane control-plane pins list)
echo "$pins"
grep -q '^/world  *all' <<< "$pins" || fail "/world is no longer pinned for the fleet"

step "stopping in order"
stopped=$(agents)
compose stop > "$ENGINE/stop.log" 2>&1
code=$(docker inspect -f '{{.State.ExitCode}}' "$stopped")
[ "$code" = 0 ] || fail "the agent left with exit code $code when it was told to stop"
echo "   the agent drained and left with exit code 0"
