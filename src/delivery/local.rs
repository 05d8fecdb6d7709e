//! Mail for a mailbox of this host, as a copy: the rename is the claim's own.
//!
//! A copy is done once it is durable in `new/`. An error of the disk defers; only a mailbox that is not there any more is
//! a failure.

use std::io::{self, Write};

use crate::io::durable;
use crate::mail::outcome::{Cause, Outcome};
use crate::mail::reply::Enhanced;
use crate::maildir::{Maildir, Name};
use crate::route::Site;
use crate::spool::Claim;
use crate::spool::state::Target;

/// Puts the message into the mailbox of the target, which is the `number`th of the message.
pub fn to_mailbox(claim: &mut Claim<'_>, target: &Target, number: usize, site: &Site) -> Outcome {
    let maildir = Maildir::of(&site.config.mailboxes, &target.address).filter(|_| site.has_mailbox(&target.address));
    let Some(maildir) = maildir else {
        return Outcome::Failed(Cause::local(Enhanced(5, 1, 1), "the mailbox is not here any more"));
    };
    match copy(claim, &maildir, target, number, site) {
        Ok(()) => Outcome::Delivered(Cause::local(Enhanced(2, 0, 0), "in the mailbox")),
        Err(error) => Outcome::Deferred(broken(&error)),
    }
}

fn copy(claim: &mut Claim<'_>, maildir: &Maildir, target: &Target, number: usize, site: &Site) -> io::Result<()> {
    let name = Name { id: claim.id, target: number, hostname: site.config.hostname.as_str() };
    // Only a crash between the copy and its outcome, or in the middle of a rename by a link, can have left one.
    if (claim.was_found || claim.entry.links > 1) && maildir.has(name)? {
        return Ok(());
    }
    maildir.copy(name, |file| {
        let top = format!("Return-Path: {}\r\nDelivered-To: {}\r\n", target.reverse_path, target.address);
        file.write_all(top.as_bytes())?;
        Ok(top.len() as u64 + claim.entry.copy_body(file)?)
    })
}

/// What an error of the disk means.
pub fn broken(error: &io::Error) -> Cause {
    let code = if durable::is_no_space(error) { Enhanced(4, 3, 1) } else { Enhanced(4, 3, 0) };
    Cause::local(code, error.to_string())
}
