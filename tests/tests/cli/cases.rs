//! Command lines with what must come of them.

/// A map of the world.
pub const MAP: &str = "request ows /world -p SERVICE=WMS -p VERSION=1.3.0 -p REQUEST=GetMap -p LAYERS=countries -p STYLES= \
                   -p CRS=EPSG:4326 -p BBOX=40,0,50,10 -p WIDTH=64 -p HEIGHT=64 -p FORMAT=image/png";

/// A command line, the exit code that it must have, and a part of what it must say.
pub type Case = (&'static str, i32, &'static str);

/// What a running agent does, in this order.
pub const DONE_BY_AN_AGENT: &[Case] = &[
    ("ping", 0, "answers after "),
    ("ping --count 2 --every 0", 0, "2 of 2 answers; least "),
    ("ping --json", 0, "\"answered\": 1"),
    ("healthcheck", 0, "ready"),
    ("healthcheck --set-error slow", 0, "its health is in error"),
    ("healthcheck", 2, "not ready"),
    ("healthcheck --json", 2, "\"ready\": false"),
    ("healthcheck --clear-error", 0, "its health is ok"),
    ("stats", 0, "2 of 2 workers live"),
    ("stats --json", 0, "\"phase\": \"ready\""),
    ("top --once", 0, "1 of 1 agents ready, 2 of 2 workers live"),
    ("env", 0, "qgis"),
    ("env --json", 0, "\"versions\""),
    ("sleep 0.1", 0, "was busy for "),
    ("resize 1", 0, "1 workers are wanted now, 2 before"),
    ("resize 2 --json", 0, "\"after\": 2"),
    ("config get server.timeout", 0, "server.timeout = "),
    (
        "config set {\"server\":{\"timeout\":31}}",
        0,
        "server.timeout: 20.0 → 31.0",
    ),
    ("config set --reset --json", 0, "\"applied\""),
    ("config log info", 0, "→ info"),
    ("cache pin /world", 0, "/world is pinned"),
    ("cache pin /world --json", 0, "\"already\": true"),
    ("cache list", 0, "/world"),
    ("cache info /world", 0, "countries"),
    ("cache catalog", 0, "/points"),
    ("cache checkout --pull /points", 0, "/points is in 2 of 2 workers"),
    ("cache dump", 0, "/points"),
    ("cache update", 0, "current"),
    ("cache drop /points", 0, "/points is gone from 2 workers"),
    ("cache clear --json", 0, "\"projects\": 0"),
    ("cache unpin /world", 0, "/world is no longer pinned"),
    ("quarantine list", 0, "no request has killed a worker lately"),
    ("quarantine clear --all", 0, "there was nothing in the quarantine"),
    ("plugin list", 0, "there is no server plugin"),
    (
        "request ows /world -p SERVICE=WMS -p REQUEST=GetCapabilities --headers",
        0,
        "Content-Type: text/xml",
    ),
    ("request api /world /wfs3/collections.json -p limit=1", 0, "countries"),
    ("drain --wait 20", 0, "drained: nothing runs"),
    ("resume", 0, "takes requests again"),
    ("reload", 0, "reloaded in "),
    ("state enable", 0, "its health is ok, as before"),
    ("state env", 0, "qgis"),
];

/// What an agent does not do.
pub const REFUSED_BY_AN_AGENT: &[Case] = &[
    ("cache pin /nowhere", 1, "there is no project"),
    ("cache unpin /../world", 1, "steps through"),
    ("cache info /nowhere", 1, "there is no project"),
    ("cache checkout --pull /nowhere", 1, "there is no project"),
    ("cache drop /../world", 1, "steps through"),
    ("cache update /../world", 1, "steps through"),
    ("config get server.timeuot", 1, "there is no key `server.timeuot`"),
    ("config set {\"server\":{\"timeout\":-1}}", 1, "server.timeout"),
    ("config set @/nowhere.json", 64, "/nowhere.json"),
    ("config log loud", 1, "the agent refused"),
    ("resize 0", 1, "the agent refused"),
    ("sleep 601", 1, "expected 0 to 600 seconds"),
    ("drain --wait=-1", 1, "expected 0 to 3600 seconds"),
    ("quarantine clear nonsense", 1, "the agent refused"),
    (
        "request ows /nowhere -p SERVICE=WMS -p REQUEST=GetCapabilities",
        1,
        "the answer's status is 404",
    ),
    ("request ows /world -p SERVICE", 64, "expected KEY=VALUE"),
    ("request ows /world --json", 64, "say with --output"),
    ("request api /nowhere /wfs3", 1, "the answer's status is 404"),
    ("top", 64, "standard output is no terminal"),
    ("stats --agent agent-1", 64, "say --fleet HOST:PORT"),
    ("ping --count 0", 64, "--count"),
    ("cache", 64, "Usage: worker-agent cache"),
];

/// What a running control plane does.
pub const DONE_BY_A_CONTROL_PLANE: &[Case] = &[
    ("fleet", 0, "agent-1"),
    ("fleet --json", 0, "\"phase\": \"ready\""),
    ("fleet drain agent-1", 0, "1 of 1 agents have done it"),
    ("fleet resume --all --json", 0, "\"well\": true"),
    ("fleet resize 2 --pool default", 0, "1 of 1 agents have done it"),
    ("fleet reload agent-1", 0, "agent-1: done"),
    ("pins add /world", 0, "1 of 1 agents have loaded /world"),
    ("pins add /world --json", 0, "\"already\": true"),
    ("placements", 0, "no project is placed"),
    ("placements --agents", 0, "agent-1"),
    ("pins list", 0, "/world   all   1/1"),
    ("pins remove /world", 0, "/world is no longer pinned for the fleet"),
    ("pins remove /world --json", 0, "\"was_pinned\": false"),
    ("config get front.request_timeout", 0, "front.request_timeout = "),
    ("config set front.request_timeout=91", 0, "→ 91"),
    ("config set front.request_timeout= --json", 0, "\"result\": \"applied\""),
    ("config log", 0, "front.request_timeout"),
    ("config reload", 0, "unchanged"),
    ("clients", 0, "SYNCED"),
    ("clients --json", 0, "\"status\": \"synced\""),
    ("snapshot", 0, "pool/default"),
    ("snapshot --json", 0, "\"views\""),
];

/// What a control plane does not do.
pub const REFUSED_BY_A_CONTROL_PLANE: &[Case] = &[
    ("fleet drain nobody", 1, "nobody"),
    ("fleet resume --pool nowhere", 1, "nowhere"),
    ("fleet reload nobody", 1, "nobody"),
    ("fleet resize 0 --all", 1, "expected 1 to 1024"),
    ("pins add /../world", 1, "steps through"),
    ("pins remove /../world", 1, "steps through"),
    ("config get front.nowhere", 1, "there is no `front.nowhere`"),
    ("config set front.nowhere=1", 1, "front.nowhere"),
    ("config set front", 64, "expected KEY=VALUE"),
    ("snapshot --view nowhere", 1, "there is no view `nowhere`"),
    ("snapshot --conf /nowhere.toml", 64, "/nowhere.toml"),
    ("fleet drain", 64, "Usage: control-plane fleet drain"),
    ("clients --nonsense", 64, "--nonsense"),
];
