# A Docker Engine of the tests' own, in .parts/docker: sourced by run.sh. It shares nothing with an engine that the
# machine may have. The programs are unpacked from Debian's packages, not installed; iptables and mmdebstrap are
# installed when they are missing. `engine_stop` puts the machine's packet filter and forwarding back as they were.

ENGINE="$PARTS/docker"
ENGINE_ROOT="$ENGINE/root"
ENGINE_BRIDGE=graticule0
export DOCKER_HOST="unix://$ENGINE/docker.sock" DOCKER_CONFIG="$ENGINE/config"
PATH="$ENGINE_ROOT/usr/bin:$ENGINE_ROOT/usr/sbin:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin:$PATH"

# The mirror that the machine's own sources name for Debian itself.
engine_mirror() {
    apt-get indextargets --format '$(ORIGIN)|$(SITE)|$(REPO_URI)|$(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
        awk -F'|' '$1 == "Debian" && $4 == "main" && $3 !~ /security/ {print $3; exit}'
}

engine_unpack() {
    [ -x "$ENGINE_ROOT/usr/sbin/dockerd" ] && return
    step "unpacking Docker Engine from Debian 13's packages into $ENGINE_ROOT"
    local lists="$ENGINE/apt" package
    mkdir -p "$lists/lists/partial" "$lists/cache/archives/partial" "$lists/debs" "$ENGINE_ROOT"
    cat > "$lists/sources.list" <<SOURCE
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(engine_mirror) trixie main
SOURCE
    local apt=(apt-get -q -o Dir::Etc::SourceList="$lists/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$lists/lists" -o Dir::Cache="$lists/cache" -o APT::Sandbox::User=root)
    "${apt[@]}" update
    (cd "$lists/debs" && "${apt[@]}" download docker.io docker-cli docker-compose docker-buildx)
    # These need the C library that they were built with, so they come from the machine's own suite.
    (cd "$lists/debs" && apt-get -q -o APT::Sandbox::User=root download containerd runc tini)
    for package in "$lists"/debs/*.deb; do dpkg-deb -x "$package" "$ENGINE_ROOT"; done
    rm -rf "$lists/debs" "$lists/lists" "$lists/cache"
}

engine_start() {
    local missing=()
    command -v iptables > /dev/null || missing+=(iptables)
    command -v mmdebstrap > /dev/null || missing+=(mmdebstrap)
    if [ ${#missing[@]} -gt 0 ]; then
        step "installing ${missing[*]}"
        apt-get update -q && apt-get install -q -y --no-install-recommends "${missing[@]}"
    fi
    engine_unpack
    mkdir -p "$DOCKER_CONFIG/cli-plugins" "$ENGINE/exec"
    find "$ENGINE_ROOT/usr/libexec/docker/cli-plugins" -type f,l -exec ln -sf {} "$DOCKER_CONFIG/cli-plugins/" \;
    # Debian calls it docker-init or tini; the engine looks for docker-init.
    [ -e "$ENGINE_ROOT/usr/bin/docker-init" ] || ln -sf tini-static "$ENGINE_ROOT/usr/bin/docker-init"

    step "starting dockerd (log: $ENGINE/dockerd.log)"
    # Left over, they are of a run that could not put things back: then they still say how it was before.
    if [ ! -e "$ENGINE/ip_forward.before" ]; then
        iptables-save > "$ENGINE/iptables.before"
        ip6tables-save > "$ENGINE/ip6tables.before"
        cat /proc/sys/net/ipv4/ip_forward > "$ENGINE/ip_forward.before"
    fi
    rm -f "$ENGINE/docker.pid" "$ENGINE/docker.sock"
    # A bridge by another name than the one that an engine of the machine's own has.
    ip link show "$ENGINE_BRIDGE" > /dev/null 2>&1 || ip link add "$ENGINE_BRIDGE" type bridge
    ip address replace 172.31.251.1/24 dev "$ENGINE_BRIDGE"
    ip link set "$ENGINE_BRIDGE" up
    dockerd --mtu 1400 -H "$DOCKER_HOST" --data-root "$ENGINE/data" --exec-root "$ENGINE/exec" \
        --bridge "$ENGINE_BRIDGE" --pidfile "$ENGINE/docker.pid" > "$ENGINE/dockerd.log" 2>&1 &
    ENGINE_PID=$!
    for _ in $(seq 60); do
        docker info > /dev/null 2>&1 && return
        kill -0 "$ENGINE_PID" 2> /dev/null || break
        sleep 0.5
    done
    tail -20 "$ENGINE/dockerd.log" >&2
    fail "dockerd did not start; see the lines above"
}

# Empties the tables that the engine filled, then puts back what was in them.
engine_restore() {
    local table
    "$1" -P FORWARD ACCEPT
    for table in filter nat; do
        "$1" -t $table -F
        "$1" -t $table -X
    done
    "$1-restore" < "$ENGINE/$1.before"
}

engine_stop() {
    [ -n "${ENGINE_PID:-}" ] || return 0
    kill "$ENGINE_PID" 2> /dev/null && wait "$ENGINE_PID" 2> /dev/null
    ENGINE_PID=
    ip link delete "$ENGINE_BRIDGE"
    engine_restore iptables
    engine_restore ip6tables
    cat "$ENGINE/ip_forward.before" > /proc/sys/net/ipv4/ip_forward
    rm "$ENGINE"/*.before
}

# The base image of the Dockerfiles, made from Debian's packages.
engine_base_image() {
    docker image inspect debian:trixie-slim > /dev/null 2>&1 && return
    step "making debian:trixie-slim from packages"
    mmdebstrap --quiet --variant=minbase trixie - "deb $(engine_mirror) trixie main" | docker import - debian:trixie-slim
}
