//! What a dropped file says: from whom, to whom, and the header to send. Pure; `intake` reads the file.
//!
//! The envelope is what X-Sender and X-Receiver say at the top, else what the header says to people, as `sendmail -t` reads
//! it. Whoever is not trusted may only send as himself. A file that says no such thing is a [`DropError`], which knows
//! the line and what to do, and quotes nothing: its report may be read by others than its owner.

use std::collections::HashSet;

use crate::config::Config;
use crate::limits;
use crate::mail::address::{Address, Domain, ReversePath};
use crate::mail::complete::{self, Stamp};
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::header::{self, Field, Header};
use crate::mail::parameter::{MailParameters, RcptParameters};
use crate::spool::drop_error::DropError;
use crate::spool::line_ends::Canonical;

/// Who put the file there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// He may send as anyone.
    Trusted,
    /// As himself, and as `[drop] senders` grants.
    Login(String),
}

/// What a file is read against.
#[derive(Debug)]
pub struct Context<'a> {
    /// The domain of names without one.
    pub default_domain: &'a Domain,
    /// Who put the file there.
    pub owner: &'a Owner,
    /// The grants, the local domains and the limits.
    pub config: &'a Config,
    /// For a message without a date or a Message-ID.
    pub stamp: &'a Stamp,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Dropped {
    /// From whom and to whom.
    pub envelope: Envelope,
    /// The header to send, with CR LF and the empty line after it.
    pub header: Vec<u8>,
    /// Lines of the file above the body.
    pub header_lines: usize,
    /// Where in the file the body begins.
    pub body_offset: usize,
}

/// Reads the first octets of a file, in which its whole envelope and header must stand.
pub fn read(head: &[u8], context: &Context<'_>) -> Result<Dropped, DropError> {
    if head.is_empty() {
        return Err(DropError::new(0, "the file is empty", "put a message into it"));
    }
    let above = Above::read(head)?;
    let header = Header::split(&head[above.octets..], above.lines);
    if header.body_offset > limits::DROP_HEADER {
        let what = format!("the header is larger than {} octets", limits::DROP_HEADER);
        return Err(DropError::new(header.lines, what, "put an empty line between header and text"));
    }
    let has_body = above.octets + header.body_offset < head.len();
    let envelope = match above.envelope {
        Some(envelope) => {
            Envelope { parameters: MailParameters { size: None, auth: false, ..envelope.parameters }, ..envelope }
        }
        None => envelope_of(&header, has_body, context)?,
    };
    check_count(&envelope, context.config)?;
    check_owner(&envelope, &header, above.lines.max(1), context)?;
    let mut lines = print(&header, context)?;
    // A message may be nothing but its header (RFC 5322 §3.5); what is no field is its text, empty line or not.
    if header.ended || has_body {
        lines.extend_from_slice(b"\r\n");
    }
    Ok(Dropped { header: lines, header_lines: header.lines, body_offset: above.octets + header.body_offset, envelope })
}

/// What stands above the header: the first line of an mbox, and the envelope.
struct Above {
    envelope: Option<Envelope>,
    octets: usize,
    lines: usize,
}

impl Above {
    fn read(head: &[u8]) -> Result<Above, DropError> {
        let mbox =
            if head.starts_with(b"From ") { memchr::memchr(b'\n', head).map_or(head.len(), |end| end + 1) } else { 0 };
        let skipped = usize::from(mbox > 0);
        let found = Envelope::read(&head[mbox..]).map_err(|wrong| {
            DropError::new(
                skipped + wrong.line,
                wrong.what,
                "write X-Sender: <address> once, then an X-Receiver: <address> for each recipient",
            )
        })?;
        let Some(found) = found else { return Ok(Above { envelope: None, octets: mbox, lines: skipped }) };
        let octets = mbox + found.octets;
        Ok(Above { envelope: Some(found.envelope), octets, lines: memchr::memchr_iter(b'\n', &head[..octets]).count() })
    }
}

/// The envelope that `sendmail -t` would make of it.
fn envelope_of(header: &Header<'_>, has_body: bool, context: &Context<'_>) -> Result<Envelope, DropError> {
    let said = Said::by(header);
    let [sender, from] = said.senders();
    let mut senders = Vec::new();
    for field in said.fields(sender).chain(said.fields(from)) {
        senders.append(&mut addresses(field, context)?);
    }
    let Some(sender) = senders.into_iter().next() else {
        let what = format!("there is no sender: neither X-Sender, nor an address in {from} or {sender}");
        return Err(missing(header, has_body, what, format!("add a line {from}: <address> at the top")));
    };
    let mut seen = HashSet::new();
    let mut recipients = Vec::new();
    for field in said.recipients() {
        let new = addresses(field, context)?.into_iter().filter(|address| seen.insert(address.clone()));
        recipients.extend(new.map(|address| Recipient { address, parameters: RcptParameters::default() }));
    }
    if recipients.is_empty() {
        let what = "there is no recipient: neither X-Receiver, nor an address in To, Cc or Bcc";
        return Err(missing(header, has_body, what.to_owned(), "add a line To: <address> at the top".to_owned()));
    }
    let ascii = recipients.iter().all(|recipient| recipient.address.is_ascii())
        && header.fields.iter().all(|field| field.octets.is_ascii());
    let parameters = MailParameters { smtputf8: !ascii, ..MailParameters::default() };
    Ok(Envelope { reverse_path: ReversePath::Address(sender), parameters, recipients })
}

/// A field is missing. Where the header was cut short by a line that is no field, that line is why.
fn missing(header: &Header<'_>, has_body: bool, what: String, mend: String) -> DropError {
    let cut = !header.ended && has_body;
    let line = if cut { header.lines + 1 } else { 0 };
    let what = if cut { format!("{what}, and the header ends here, at what is no field") } else { what };
    DropError::new(line, what, mend)
}

/// The fields in which a message says from whom and to whom it is: those of its last resending, where there is one (RFC
/// 5322 §3.6.6), which are the first run of them.
struct Said<'a> {
    fields: Vec<Field<'a>>,
    resent: bool,
}

impl<'a> Said<'a> {
    fn by(header: &Header<'a>) -> Said<'a> {
        let mut resent: Vec<Field<'a>> = Vec::new();
        let is_resent =
            |field: &&Field<'_>| field.name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("Resent-"));
        for field in header.fields.iter().filter(is_resent) {
            if resent.iter().any(|earlier| earlier.is(field.name)) {
                break;
            }
            resent.push(*field);
        }
        let is_complete = |names: &[&str]| resent.iter().any(|field| names.iter().any(|name| field.is(name)));
        if is_complete(&["Resent-From", "Resent-Sender"]) && is_complete(&["Resent-To", "Resent-Cc", "Resent-Bcc"]) {
            return Said { fields: resent, resent: true };
        }
        Said { fields: header.fields.clone(), resent: false }
    }

    /// The names of the fields that say who sent it, the one that decides first.
    fn senders(&self) -> [&'static str; 2] {
        if self.resent { ["Resent-Sender", "Resent-From"] } else { ["Sender", "From"] }
    }

    fn recipients(&self) -> impl Iterator<Item = &Field<'a>> {
        let names = if self.resent { ["Resent-To", "Resent-Cc", "Resent-Bcc"] } else { ["To", "Cc", "Bcc"] };
        names.into_iter().flat_map(|name| self.fields(name))
    }

    fn fields(&self, name: &'static str) -> impl Iterator<Item = &Field<'a>> {
        self.fields.iter().filter(move |field| field.is(name))
    }
}

fn addresses(field: &Field<'_>, context: &Context<'_>) -> Result<Vec<Address>, DropError> {
    header::addresses(field.value, context.default_domain).map_err(|wrong| {
        DropError::new(
            field.line,
            format!("the addresses of {} can't be read: {wrong}", field.name),
            "write them as <local-part@domain>, with commas between",
        )
    })
}

fn check_count(envelope: &Envelope, config: &Config) -> Result<(), DropError> {
    let most = config.limits.recipients;
    if envelope.recipients.len() > most {
        let what = format!("there are more than {most} recipients");
        return Err(DropError::new(0, what, "use a list in the aliases file, or raise limits.recipients"));
    }
    Ok(())
}

fn check_owner(envelope: &Envelope, header: &Header<'_>, line: usize, context: &Context<'_>) -> Result<(), DropError> {
    let Owner::Login(login) = context.owner else { return Ok(()) };
    let check = |address: &Address, line: usize, place: &str| {
        if may_send_as(login, address, context.config) {
            return Ok(());
        }
        let what = format!("{login}, the owner of the file, may not send as the address in {place}");
        Err(DropError::new(
            line,
            what,
            format!("write the owner's own address there, or grant it to {login} in [drop.senders]"),
        ))
    };
    if let Some(sender) = envelope.reverse_path.address() {
        check(sender, line, "the sender")?;
    }
    let said = Said::by(header);
    for field in said.senders().into_iter().flat_map(|name| said.fields(name)) {
        addresses(field, context)?.iter().try_for_each(|address| check(address, field.line, field.name))?;
    }
    Ok(())
}

fn may_send_as(login: &str, address: &Address, config: &Config) -> bool {
    let own = address.local_part().eq_ignore_ascii_case(login)
        && address.domain().is_some_and(|domain| config.is_local(domain));
    let grants = config.drop.senders.get(login).map(Vec::as_slice).unwrap_or_default();
    own || grants.iter().any(|grant| grant.covers(address))
}

/// The header to send: without Bcc, and with what every message must have (RFC 5322 §3.6).
fn print(header: &Header<'_>, context: &Context<'_>) -> Result<Vec<u8>, DropError> {
    let mut text = Vec::new();
    let is_kept = |field: &&Field<'_>| !field.is("Bcc") && !field.is("Resent-Bcc");
    for field in header.fields.iter().filter(is_kept) {
        let mut lines = Canonical::after_lines(field.line - 1);
        lines.feed(field.octets, &mut text)?;
        lines.finish(&mut text)?;
    }
    text.extend_from_slice(complete::missing_fields(header, context.stamp).as_bytes());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::drop_error;
    use proptest::prelude::*;

    fn config() -> Config {
        let text = "hostname = \"mail.example.org\"\nlocal_domains = [\"example.org\"]\n\
                    [drop.senders]\nann = [\"info@example.org\", \"@shop.example\"]\n[limits]\nrecipients = 100";
        Config::parse(text, std::path::Path::new("")).unwrap()
    }

    fn stamp(config: &Config) -> Stamp {
        Stamp { date: "DATE".into(), unique: "ID".into(), hostname: config.hostname.clone() }
    }

    fn read_as(owner: &Owner, text: &[u8]) -> Result<(String, String), DropError> {
        let config = config();
        let stamp = stamp(&config);
        let context = Context { default_domain: config.first_domain(), owner, config: &config, stamp: &stamp };
        let dropped = read(text, &context)?;
        let lines = memchr::memchr_iter(b'\n', &text[..dropped.body_offset]).count();
        assert!(dropped.header_lines == lines || !text[..dropped.body_offset].ends_with(b"\n"));
        let envelope = dropped.envelope;
        let mut shown = format!("{}{}", envelope.reverse_path, envelope.parameters);
        for recipient in envelope.recipients {
            shown.push_str(&format!(" {}{}", recipient.address, recipient.parameters));
        }
        Ok((shown, String::from_utf8(dropped.header).unwrap()))
    }

    fn read(head: &[u8], context: &Context<'_>) -> Result<Dropped, DropError> {
        super::read(head, context)
    }

    #[test]
    fn both_styles_of_envelope_are_read() {
        for (text, expected) in [
            (
                "X-Sender: a@b.org SIZE=7 RET=HDRS\nX-Receiver: <c@d.org> NOTIFY=NEVER\n\nhi",
                "<a@b.org> RET=HDRS c@d.org NOTIFY=NEVER",
            ),
            (
                "Return-Path: <x@y.org>\r\nDelivered-To: x@y.org\r\nx-sender: <>\r\nx-receiver: c@d.org\r\nTo: no@one.org\r\n\r\n",
                "<> c@d.org",
            ),
            (
                "From x Mon Nov 23\nFrom: ann\nTo: bob, Bob <bob@example.org>\nCc: c@d.org\nBcc: e@f.org\n\nhi",
                "<ann@example.org> bob@example.org c@d.org e@f.org",
            ),
            ("Sender: s@b.org\nFrom: f@b.org, g@b.org\nTo: c@d.org\n\n", "<s@b.org> c@d.org"),
            (
                "Resent-To: new@d.org\nResent-From: me@b.org\nResent-To: old@d.org\nFrom: f@b.org\nTo: c@d.org\n\n",
                "<me@b.org> new@d.org",
            ),
            ("From: f@b.org\nTo: jörg@d.org\n\n", "<f@b.org> SMTPUTF8 jörg@d.org"),
            ("From: f@b.org\nTo: c@d.org", "<f@b.org> c@d.org"),
        ] {
            assert_eq!(read_as(&Owner::Trusted, text.as_bytes()).map(|read| read.0).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn the_header_is_completed_and_loses_only_bcc() {
        let header = |text: &str| read_as(&Owner::Trusted, text.as_bytes()).unwrap().1;
        assert_eq!(
            header("From: a\nbcc: x,\n y\nTo: b\r\nSubject: 1\n 2\n\nbody"),
            "From: a\r\nTo: b\r\nSubject: 1\r\n 2\r\nDate: DATE\r\nMessage-ID: <ID@mail.example.org>\r\n\r\n"
        );
        assert_eq!(
            header("X-Sender: a@b.org\nX-Receiver: b@c.org\ndate: x\nMESSAGE-id: y\nBcc: z\nResent-Bcc: z"),
            "date: x\r\nMESSAGE-id: y\r\n"
        );
        let given = "From: a\nTo: b\nDate: x\nMessage-ID: y\n";
        for (more, empty_line) in [("", ""), ("\n", "\r\n"), ("\ntext", "\r\n"), ("no field", "\r\n")] {
            assert!(header(&format!("{given}{more}")).ends_with(&format!("y\r\n{empty_line}")), "{more:?}");
        }
    }

    #[test]
    fn a_login_sends_as_itself_and_as_was_granted() {
        let ann = Owner::Login("ann".to_owned());
        for (sender, from, may) in [
            ("ann@example.org", "ann@example.org", true),
            ("Ann@Example.org", "Ann <ann>", true),
            ("", "ann@example.org", true),
            ("info@example.org", "any@shop.example", true),
            ("bob@example.org", "ann@example.org", false),
            ("ann@example.org", "bob@example.org", false),
            ("ann@example.org", "ann@example.org, bob@example.org", false),
            ("ann@example.org", "ann@example.org\nFrom: bob@example.org", false),
            ("ann@example.org", "ann@example.org\nSender: bob@example.org", false),
            ("ann@example.org", "not readable", false),
            ("ann@other.org", "ann@example.org", false),
        ] {
            let text = format!("X-Sender: <{sender}>\nX-Receiver: <bob@example.org>\nFrom: {from}\n\nhi");
            let read = read_as(&ann, text.as_bytes());
            assert_eq!(read.is_ok(), may, "{text}\n{read:?}");
            assert!(read_as(&Owner::Trusted, text.as_bytes()).is_ok());
        }
        assert!(read_as(&ann, b"From: ann\nTo: bob\n\n").is_ok());
        assert!(read_as(&ann, b"From: bob\nTo: bob\n\n").is_err());
    }

    #[test]
    fn errors_name_the_line_and_quote_nothing() {
        let many = format!("From: a\nTo: {}\n\n", (0..101).map(|n| format!("s3cret{n}, ")).collect::<String>());
        let large = format!("From: a\nTo: b\nX: {}\n\n", "s3cret ".repeat(limits::DROP_HEADER / 7));
        for (text, line, word) in [
            ("", 0, "empty"),
            ("s3cret\nTo: b\n\n", 1, "no sender"),
            ("From: a\nSubject: s3cret\n\n", 0, "no recipient"),
            ("From: a\ns3cret\nTo: b\n\n", 2, "no recipient"),
            ("Subject: s3cret\nTo: b\n\n", 0, "no sender"),
            ("Subject: s3cret\nTo: b\n", 0, "neither X-Sender, nor an address in From or Sender; "),
            ("Subject: s3cret\nTo: b", 0, "no sender"),
            ("From: a\nTo: s3cret s3cret\n\n", 2, "addresses of To"),
            ("From x\nX-Sender: <a@b.org>\nX-Receiver: s3cret\n\n", 3, "local-part@domain"),
            ("X-Receiver: <s3cret@b.org>\n\n", 1, "before X-Sender"),
            ("From: a\nTo: b\nSubject: s3c\rret\n\n", 3, "CR"),
            ("From: a\nTo: b\nSubject: s3c\0ret\n\n", 3, "NUL"),
            (&many, 0, "more than 100"),
            (&large, 4, "header is larger"),
        ] {
            let error = read_as(&Owner::Trusted, text.as_bytes()).unwrap_err();
            let report = drop_error::report("x.eml.bad", &error);
            assert_eq!(error.line, line, "{error}");
            assert!(error.to_string().contains(word), "{error}");
            assert!(!error.mend.is_empty() && !report.contains("s3cret"), "{report}");
            assert!(report.contains("mv x.eml.bad x.eml\n"), "{report}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(octets in prop::collection::vec(any::<u8>(), 0..80), text in "[XFT-a-z:@<> \n\r]{0,60}") {
            let _ = read_as(&Owner::Trusted, text.as_bytes());
            let config = config();
            let owner = Owner::Login("ann".to_owned());
            let stamp = stamp(&config);
            let context = Context { default_domain: config.first_domain(), owner: &owner, config: &config, stamp: &stamp };
            let _ = super::read(&octets, &context);
        }
    }
}
