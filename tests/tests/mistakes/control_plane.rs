//! What may be wrong with a control plane's configuration.

use super::Case;
use super::Source::{File, Missing, Named, Variable, Word};

/// Each with a part of what must be said.
pub const CASES: &[Case] = &[
    (
        File("[xds]\nlisten = 18000"),
        "FILE, line 2: `xds.listen`: expected an IP address and a port, such as 127.0.0.1:9080, found 18000",
    ),
    (File("[xds]\nlisten = 'here'"), "FILE, line 2: `xds.listen`: "),
    (
        File("[xds]\nlisen = ''"),
        "FILE, line 2: unknown key `xds.lisen`, did you mean `xds.listen`?",
    ),
    (File("[xsd]"), "FILE, line 1: unknown key `xsd`, did you mean `xds`?"),
    (File("[xds\n"), "line 1"),
    (
        File("[fleet]\ndisconnect_grace = 61"),
        "FILE, line 2: `fleet.disconnect_grace`: expected at least 0 and at most 60, found 61",
    ),
    (
        File("[fleet]\nsilence_limit = 5.9"),
        "`fleet.silence_limit`: expected at least 6 and at most 600, found 5.9",
    ),
    (
        File("[fleet]\nsync_window = nan"),
        "line 2: `fleet.sync_window`: expected a number, found NaN",
    ),
    (
        File("[front]\nrequest_timeout = 0"),
        "`front.request_timeout`: expected at least 0.1",
    ),
    (
        File("[front]\nconnect_timeout = '1s'"),
        "expected a number of at least 0.01 and at most 60, found a text",
    ),
    (
        File("[front]\ntrusted_hops = -1"),
        "`front.trusted_hops`: expected at least 0",
    ),
    (File("[front]\ntrusted_hops = 1.5"), "expected a whole number"),
    (
        File("[front]\naffinity = 'yes'"),
        "`front.affinity`: expected true or false, found a text",
    ),
    (
        File("[front]\naccess_log = true"),
        "`front.access_log`: expected a text, found true",
    ),
    (File("[pools]\na = []"), "`pools.a`: expected a table, found a list"),
    (
        File("[pools.a]\nhosts = 'x'"),
        "FILE, line 2: `pools.a.hosts`: expected a list, found a text",
    ),
    (
        File("[pools.a]\nhost = ['x']"),
        "unknown key `pools.a.host`, did you mean `pools.a.hosts`?",
    ),
    (
        File("[pools.a]\nhosts = ['x', 1]"),
        "`pools.a.hosts[1]`: expected a text, found 1",
    ),
    (File("[pools.a]\nhosts = []"), "FILE, line 2: `pools.a.hosts` is empty"),
    (
        File("[pools.a]\nhosts = ['x']\n[pools.b]\nhosts = ['X']"),
        "FILE, line 4: `pools.b` and `pools.a` both claim",
    ),
    (
        File("[pools.'a/b']"),
        "FILE, line 1: `pools.a/b`: the pool's name cannot be used",
    ),
    (
        File("[logging]\nformat = 'jsn'"),
        "`logging.format`: expected one of text, json, journald, found `jsn`, did you mean `json`?",
    ),
    (
        File("[front]\nlisten = '127.0.0.1:1'\n[server]\naddress = '127.0.0.1:2'"),
        "`server.address` means the same as `front.listen`",
    ),
    (
        File("[logging]\nlevel = 'loud'"),
        "FILE, line 2: `logging.level`: `loud` is no level",
    ),
    (
        File("[front]\ntimeouts = { 'WMS GetMap' = 3 }"),
        "FILE, line 2: `front.timeouts` has `WMS GetMap = 3`: write it as in `WMS/GetPrint`",
    ),
    (
        File("[front.limits]\nmax_url_length = 70000"),
        "FILE, line 2: `front.limits.max_url_length` has `70000`: set it to a number from 256 to 61440",
    ),
    (
        File("[front.compression]\nalgorithms = ['gz']"),
        "`front.compression.algorithms[0]`: expected one of br, zstd, gzip, found `gz`",
    ),
    (
        File("[front.tls]\nhttp3 = true"),
        "FILE, line 2: `front.tls.http3` has `true`: there is no HTTPS",
    ),
    (
        File("[front.tls]\nmin_version = '1.1'"),
        "`front.tls.min_version`: expected one of 1.2, 1.3, found `1.1`",
    ),
    (
        File("[front.tls]\nauto = true\ncert_file = '/nowhere/a.crt'"),
        "FILE, line 3: `front.tls.cert_file` has `/nowhere/a.crt`: front.tls.auto makes",
    ),
    (
        File("[front.tls]\ncert_file = '/nowhere/a.crt'"),
        "FILE, line 2: `front.tls.key_file`: it is not set",
    ),
    (
        File("[front.tls]\ncert_file = '/nowhere/a.crt'\nkey_file = '/nowhere/a.key'"),
        "FILE, line 2: `front.tls.cert_file`: /nowhere/a.crt: it cannot be read",
    ),
    (
        File("[xds.tls]\ncert_file = '/nowhere/a.crt'\nkey_file = '/nowhere/a.key'"),
        "FILE, line 2: `xds.tls.cert_file`: /nowhere/a.crt: it cannot be read",
    ),
    (
        File("[xds.access]\nfull_token = 'short'"),
        "FILE, line 2: `xds.access.full_token`: a token has at least 16 characters",
    ),
    (
        File("[fleet.access]\npeer_token_file = '/nowhere/token'"),
        "FILE, line 2: `fleet.access.peer_token_file`: /nowhere/token: it cannot be read",
    ),
    (
        File("[fleet.access.certificates]\nops = 'full'"),
        "FILE, line 2: `fleet.access.certificates`: certificates have roles only where",
    ),
    (
        File("[store]\nurl = 'mysql://db'"),
        "FILE, line 2: `store.url` begins with no known scheme",
    ),
    (
        File("[pools.a.tls]\nserver_name = 'agent'"),
        "FILE, line 2: `pools.a.tls.ca_file`: it is not set",
    ),
    (
        File("[pools.a]\ntls = { ca_file = '/nowhere/ca' }"),
        "FILE, line 2: `pools.a.tls.ca_file`: /nowhere/ca: it cannot be read",
    ),
    (
        File("[pools.a.cors]\norigins = 'all'\ncredentials = true"),
        "FILE, line 3: `pools.a.cors.credentials` has `true`: any page could act",
    ),
    (
        File("[pools.a.health_check]\nfailures = 0"),
        "`pools.a.health_check.failures`: expected at least 1 and at most 100, found 0",
    ),
    (
        File("[views.edge]\nnodes = []"),
        "FILE, line 2: `views.edge.nodes` is empty",
    ),
    (
        File("[views.edge]\nnodes = ['e']\npools = ['maps']"),
        "FILE, line 3: `views.edge.pools`: there is no pool `maps`, take one of: default",
    ),
    (
        File("[views.edge]\nnodes = ['e']\nlisten = 9080"),
        "`views.edge.listen`: expected an IP address and a port",
    ),
    (
        File("[fragments.own]\nviews = ['edge']"),
        "FILE, line 2: `fragments.own.views` has `edge`: there is no such view",
    ),
    (
        File("[fragments.own]\nfile = '/nowhere/own.yaml'"),
        "FILE, line 2: `fragments.own.file`: /nowhere/own.yaml: No such file",
    ),
    (
        File("[[fragments.own.clusters]]\nname = 'x'\nconect_timeout = '1s'"),
        "`fragments.own.clusters[0].conect_timeout`: a Cluster has no such field, did you mean `connect_timeout`?",
    ),
    (
        Named(".json", "{\n\"xds\": }"),
        "configuration file FILE: expected value at line 2",
    ),
    (Named(".yaml", "xds:\n  listen: [1\n"), "configuration file FILE: "),
    (Missing, "configuration file FILE: No such file or directory"),
    (
        Variable("CONF_XDS__LISEN", "x"),
        "environment variable CONF_XDS__LISEN: unknown key",
    ),
    (
        Variable("CONF_FRONT__AFFINITY", "perhaps"),
        "CONF_FRONT__AFFINITY: `front.affinity`: expected yes or no",
    ),
    (
        Variable("CONF_POOLS", "{"),
        "CONF_POOLS: `pools`: expected a table written as JSON",
    ),
    (Variable("CONF_URL", "ftp://x"), "CONF_URL: expected a URL"),
    (
        Variable("CONF_STORE__URL", "postgresql://db/fleet"),
        "environment variable CONF_STORE__URL: `store.url` and `store.dir` are both set",
    ),
    (
        Variable("CONF_XDS__ACCESS__READ_TOKEN_FILE", "/nowhere/token"),
        "environment variable CONF_XDS__ACCESS__READ_TOKEN_FILE: `xds.access.read_token_file`: /nowhere/token: it cannot be read",
    ),
    (
        Word("front.affinty=no"),
        "--set front.affinty: unknown key `front.affinty`, did you mean `front.affinity`?",
    ),
    (Word("front.affinity"), "--set front.affinity: expected key=value"),
    (
        Word("front.request_timeout=soon"),
        "--set front.request_timeout: `front.request_timeout`: expected a number",
    ),
    (
        Word("xds.listen=0.0.0.0:18000"),
        "--set xds.listen: `xds.listen`: the port 0.0.0.0:18000",
    ),
];
