//! The mailboxes that a server keeps below a folder, ours and others alike: `domain/local-part`, each a Maildir.

use std::fs;
use std::path::Path;

use super::{eventually, files};

/// The folder of a mailbox below that of all.
pub fn maildir(address: &str) -> String {
    let (local_part, domain) = address.split_once('@').expect("an address");
    format!("{domain}/{local_part}")
}

/// The messages in a mailbox's `new/`, in the order they came.
pub fn mailbox(mail: &Path, address: &str) -> Vec<Vec<u8>> {
    let mut paths = files(&mail.join(maildir(address)).join("new"));
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Waits until the mailbox has as many messages, and no more.
pub fn wait_for(mail: &Path, address: &str, count: usize) -> Vec<Vec<u8>> {
    eventually(&format!("{address} has {count} messages in {}", mail.display()), || {
        mailbox(mail, address).len() >= count
    });
    let found = mailbox(mail, address);
    assert_eq!(found.len(), count, "{address}");
    found
}
