//! The order of claims, and what is no order.

use super::*;

/// A claim with all that it needs of its own.
type Owned = (String, Vec<String>, String, BTreeMap<String, String>);

/// Claims written as `pool hosts prefix headers`, hosts and headers with commas between them.
fn ordered(lines: &[&str]) -> Result<Vec<String>, Conflict> {
    let parsed: Vec<Owned> = lines
        .iter()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let hosts = words[1].split(',').map(str::to_owned).collect();
            let headers = words.get(3).into_iter().flat_map(|headers| headers.split(','));
            let headers = headers
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            (words[0].to_owned(), hosts, words[2].to_owned(), headers)
        })
        .collect();
    let claims: Vec<Claim<'_>> = parsed
        .iter()
        .map(|(pool, hosts, prefix, headers)| Claim {
            pool,
            hosts,
            prefix: prefix.clone(),
            headers: headers.clone(),
        })
        .collect();
    let describe = |host: HostClaims| {
        let list: Vec<String> = host
            .claims
            .iter()
            .map(|index| format!("{}{}", claims[*index].pool, claims[*index].prefix))
            .collect();
        format!("{}: {}", host.host, list.join(" "))
    };
    order(&claims).map(|hosts| hosts.into_iter().map(describe).collect())
}

#[test]
fn longer_prefixes_and_more_headers_come_first() {
    let lines = ["a * /", "b * /maps", "c * /maps/deep", "d * /maps x=1"];
    assert_eq!(ordered(&lines).unwrap(), ["*: c/maps/deep d/maps b/maps a/"]);
    let backwards: Vec<&str> = lines.into_iter().rev().collect();
    assert_eq!(
        ordered(&backwards),
        ordered(&lines),
        "the order of writing means nothing"
    );
}

#[test]
fn a_host_comes_before_any_prefix_and_wildcards_fill_the_rest() {
    let lines = [
        "all * /",
        "deep * /maps/deep",
        "own a.example.org /maps",
        "sub *.example.org /x",
        "www www.* /y",
    ];
    assert_eq!(
        ordered(&lines).unwrap(),
        [
            "*: deep/maps/deep all/",
            "*.example.org: sub/x deep/maps/deep all/",
            "a.example.org: own/maps sub/x deep/maps/deep all/",
            "www.*: www/y deep/maps/deep all/",
        ]
    );
}

#[test]
fn what_comes_after_a_claim_to_everything_is_left_out() {
    assert_eq!(
        ordered(&["all * /x", "own a.org /"]).unwrap(),
        ["*: all/x", "a.org: own/"]
    );
}

#[test]
fn a_pool_of_several_hosts_stands_once_for_each() {
    assert_eq!(
        ordered(&["a A.org,*.org,* /m"]).unwrap(),
        ["*: a/m", "*.org: a/m", "a.org: a/m"]
    );
}

#[test]
fn the_same_claim_of_two_pools_is_an_error_that_names_both() {
    let said = ordered(&["a x.org,y.org /m t=1", "b Y.org /m t=1"])
        .unwrap_err()
        .to_string();
    assert_eq!(
        said,
        "`pools.b` and `pools.a` both claim prefix `/m` with t: 1 of the host `y.org`; give one of them another host, a longer prefix or one more header"
    );
    let said = ordered(&["a x.org /m", "a x.org /m"]).unwrap_err().to_string();
    assert_eq!(said, "`pools.a.routes` has prefix `/m` twice; remove one of them");
}

#[test]
fn headers_that_one_request_may_all_have_are_ambiguous() {
    let said = ordered(&["a * / t=1", "b * / u=1"]).unwrap_err().to_string();
    assert!(
        said.contains("fits prefix `/` with u: 1 and prefix `/` with t: 1 of `pools.a`"),
        "{said}"
    );
    assert!(ordered(&["a * / t=1", "b * / t=*"]).is_err());
    for fine in [
        ["a * / t=1", "b * / t=2"],
        ["a * / t=1", "b * / u=1,v=1"],
        ["a * / t=1", "b * /m u=1"],
        ["a * / t=1", "b x.org / u=1"],
        ["a * / t=1", "a * / u=1"],
    ] {
        assert!(ordered(&fine).is_ok(), "{fine:?}");
    }
}

#[test]
fn a_wildcard_covers_what_it_means_and_no_more() {
    for (wide, narrow, expected) in [
        ("*", "a.org", true),
        ("*", "*.org", true),
        ("*", "*", false),
        ("*.a.org", "b.a.org", true),
        ("*.a.org", "*.b.a.org", true),
        ("*.a.org", "a.org", false),
        ("*.a.org", "*.a.org", false),
        ("www.*", "www.a.org", true),
        ("www.*", "ww.a.org", false),
        ("www.*", "*.org", false),
        ("a.org", "b.a.org", false),
    ] {
        assert_eq!(covers(wide, narrow), expected, "{wide} {narrow}");
    }
}

proptest::proptest! {
    /// Whatever is claimed: every claim is tried at each of its hosts unless something before it takes all, none is there
    /// twice, and a prefix never stands before a longer one of the same host.
    #[test]
    fn every_claim_has_its_place(picks in proptest::collection::vec((0..4usize, 0..4usize, 0..3usize), 1..8)) {
        let hosts = ["*", "*.org", "a.org", "www.*"];
        let prefixes = ["/", "/m", "/m/n", "/o"];
        let headers = ["", "t=1", "t=2"];
        let lines: Vec<String> = picks
            .iter()
            .enumerate()
            .map(|(pool, (h, p, t))| format!("p{pool} {} {} {}", hosts[*h], prefixes[*p], headers[*t]))
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let Ok(list) = ordered(&lines) else { return Ok(()) };
        for line in list {
            let (host, claims) = line.split_once(": ").unwrap();
            let claims: Vec<&str> = claims.split(' ').collect();
            let unique: BTreeSet<&&str> = claims.iter().collect();
            proptest::prop_assert_eq!(unique.len(), claims.len());
            let own: Vec<usize> = picks
                .iter()
                .enumerate()
                .filter(|(_, pick)| hosts[pick.0] == host)
                .map(|(pool, pick)| {
                    let name = format!("p{pool}{}", prefixes[pick.1]);
                    claims.iter().position(|claim| *claim == name)
                })
                .map(|place| place.unwrap_or(usize::MAX))
                .collect();
            proptest::prop_assert!(own.iter().all(|place| *place < claims.len()), "{} of {:?}", host, claims);
        }
    }
}
