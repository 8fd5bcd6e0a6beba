//! The user that workers run as, looked up in the system's user database.

use std::ffi::CString;
use std::fs;

use nix::unistd::{Gid, Uid, geteuid, getgrouplist};

use crate::core::message::User;

/// The capabilities that an agent needs to run workers as another user: their bits and names.
const NEEDED: [(u32, &str); 5] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
];

/// Looks up a user and its groups.
///
/// # Errors
/// When there is no such user; the text says what to do.
pub fn find(name: &str) -> Result<User, String> {
    let cannot = |error: nix::Error| format!("user `{name}` could not be looked up: {error}");
    let user = nix::unistd::User::from_name(name).map_err(cannot)?.ok_or_else(|| {
        format!("there is no user `{name}`: create it (such as with `useradd --system {name}`), or name another")
    })?;
    if user.uid.is_root() {
        return Err(format!("`{name}` is the superuser: name another user, or none"));
    }
    let login = CString::new(user.name.as_str()).map_err(|error| error.to_string())?;
    let groups = getgrouplist(&login, user.gid).map_err(cannot)?;
    Ok(User {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
        home: user.dir,
    })
}

/// What workers of this agent have to become to be `user`; nothing when the agent is that user itself.
///
/// # Errors
/// When this process may not make others run as that user; the text says what to do.
pub fn to_become(user: User) -> Result<Option<User>, String> {
    if geteuid() == Uid::from_raw(user.uid) {
        return Ok(None);
    }
    let missing = missing(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    if geteuid().is_root() && missing.is_empty() {
        return Ok(Some(user));
    }
    let remedy = "or leave it empty, and start the agent as the user that workers are to run as";
    Err(if geteuid().is_root() {
        format!(
            "to run workers as `{}` the agent needs {}: add them, {remedy}",
            user.name,
            missing.join(", ")
        )
    } else {
        format!(
            "only root can run workers as `{}`: start the agent as root, {remedy}",
            user.name
        )
    })
}

/// Names of needed capabilities that a process does not have, by its `/proc/PID/status`.
fn missing(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or(0);
    let lacks = |bit: u32| effective & (1 << bit) == 0;
    NEEDED
        .iter()
        .filter(|(bit, _)| lacks(*bit))
        .map(|&(_, name)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_with_its_groups() {
        // Every Linux has it.
        let nobody = find("nobody").unwrap();
        assert!(nobody.uid > 0);
        assert!(nobody.groups.contains(&nobody.gid));
    }

    #[test]
    fn who_cannot_be_meant_is_told() {
        assert!(
            find("no-such-user-at-all")
                .unwrap_err()
                .contains("there is no user `no-such-user-at-all`")
        );
        assert!(find("root").unwrap_err().contains("superuser"));
        assert!(find("").is_err());
        assert!(find("no\0body").is_err());
    }

    #[test]
    fn who_we_are_needs_nothing() {
        let uid = geteuid().as_raw();
        let own = User {
            uid,
            ..find("nobody").unwrap()
        };
        assert_eq!(to_become(own).unwrap(), None);
        let stranger = User {
            uid: uid + 1,
            ..find("nobody").unwrap()
        };
        assert_eq!(to_become(stranger).is_ok(), geteuid().is_root());
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing("Name:\tx\nCapEff:\t000001ffffffffff\n"), [""; 0]);
        // Bits 6 and 7.
        assert_eq!(
            missing("CapEff:\t00000000000000c0\n"),
            ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL"]
        );
        assert_eq!(missing("").len(), NEEDED.len());
    }
}
