//! Accounts of this system: who runs us, and becoming another for good.
//!
//! Becoming fails as a whole: after an error the process must end, because it may have given up a part of what it was.

use std::ffi::{CStr, CString};
use std::io;
use std::sync::Arc;

use nix::unistd::{
    Gid, ROOT, Uid, User, geteuid, getgrouplist, getgroups, getuid, initgroups, seteuid, setgid, setuid,
};

/// Finds the name of the account of a number, if this system has one.
pub type Accounts = Arc<dyn Fn(u32) -> io::Result<Option<String>> + Send + Sync>;

/// The account of this name.
pub fn find(name: &str) -> io::Result<User> {
    User::from_name(name)?.ok_or_else(|| {
        let mend = format!("make it with adduser --system --group {name}");
        io::Error::new(io::ErrorKind::NotFound, format!("this system has no account {name}; {mend}"))
    })
}

/// Whether this process may become any account.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Becomes the account for good, with its groups and no others. Nothing happens if this process runs as it already.
pub fn become_account(name: &str) -> io::Result<()> {
    let account = find(name)?;
    if is(account.uid) {
        return Ok(());
    }
    let failed = |error: nix::Error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("cannot become the account {name}: {error}; only root can"))
    };
    let c_name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // The groups first: without root they can't be given up any more.
    initgroups(&c_name, account.gid).map_err(failed)?;
    setgid(account.gid).map_err(failed)?;
    setuid(account.uid).map_err(failed)?;
    if !is(account.uid) {
        return Err(failed(nix::Error::EPERM));
    }
    no_way_back(&account, &c_name)
}

/// Whether root is gone for good, with all its groups: a capability or a securebit may have been left by who started us.
fn no_way_back(account: &User, name: &CStr) -> io::Result<()> {
    let left = |what: &str| {
        let mend = "start it without ambient capabilities and securebits";
        Err(io::Error::other(format!("as {}, this process could still {what}; {mend}", account.name)))
    };
    if !account.uid.is_root() && (seteuid(ROOT).is_ok() || setuid(ROOT).is_ok()) {
        return left("become root again");
    }
    let own: Vec<Gid> = getgrouplist(name, account.gid)?;
    if getgroups()?.iter().any(|group| !own.contains(group)) {
        return left("use groups of who started it");
    }
    Ok(())
}

fn is(account: Uid) -> bool {
    geteuid() == account && getuid() == account
}

/// The name of the account of this number, if this system has one.
pub fn name_of(number: u32) -> io::Result<Option<String>> {
    Ok(User::from_uid(Uid::from_raw(number))?.map(|user| user.name))
}

/// The name of the account that runs this process, or its number.
pub fn own_name() -> String {
    let uid = geteuid();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_is_not_there_is_named_with_the_mend() {
        let error = become_account("nobody-has-this-name").unwrap_err().to_string();
        assert!(error.contains("nobody-has-this-name") && error.contains("adduser"), "{error}");
    }

    #[test]
    fn becoming_oneself_does_nothing() {
        become_account(&own_name()).unwrap();
    }
}
