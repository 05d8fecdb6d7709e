//! An accepted message as it is found on the disk: a regular file whose first fields are its envelope.
//!
//! Opening it is where its format is checked. What has a wrong format and what can't be read now are told apart: the
//! first goes to `failed/`, the second is tried again. An entry without SIZE was put there by a person: its line ends
//! are treated as those of a dropped file ([`lines_by_hand`]), so that none leaves this host bare.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Take};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::lines_by_hand::{self, Lines};
use crate::io::durable;
use crate::limits;
use crate::mail::address::Address;
use crate::mail::envelope::{Envelope, EnvelopeError, Found};

/// A message with its envelope read.
#[derive(Debug)]
pub struct Entry {
    file: File,
    /// From whom and to whom.
    pub envelope: Envelope,
    /// The mailbox it was laid out for at acceptance.
    pub laid_out_for: Option<Address>,
    /// Where the message begins, after the envelope.
    body_at: u64,
    /// The octets of the message, where its line ends are not those of the file.
    mended: Option<u64>,
    /// Octets of the whole file.
    pub size: u64,
    /// Names the file has; with more than one it is never renamed, because another name would change with it.
    pub links: u64,
}

/// Why a file is no entry.
#[derive(Debug)]
pub enum Unfit {
    /// It is not there.
    Gone,
    /// It can't be read now.
    Unreadable(io::Error),
    /// It is no message of ours: what is wrong, and what to do.
    WrongFormat(String),
}

impl Entry {
    /// What was just written and laid out for a rename into the mailbox of `address`: a file of `size` octets, `body` of
    /// them after the envelope.
    pub(super) fn laid_out(file: File, envelope: Envelope, address: Address, (size, body): (u64, u64)) -> Entry {
        Entry { file, envelope, laid_out_for: Some(address), body_at: size - body, mended: None, size, links: 1 }
    }

    /// Opens the file of an entry.
    pub fn open(path: &Path) -> Result<Entry, Unfit> {
        let file = durable::open_untrusted(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Unfit::Gone,
            _ if path.is_symlink() => wrong("it is a symbolic link, not a file"),
            _ => Unfit::Unreadable(error),
        })?;
        let metadata = file.metadata().map_err(Unfit::Unreadable)?;
        if !metadata.is_file() {
            return Err(wrong("it is not a regular file"));
        }
        let Found { envelope, laid_out_for, octets } = read_envelope(&file)?;
        let (size, body_at) = (metadata.len(), octets as u64);
        // Without SIZE the envelope was written by a person, who vouches that the rest is whole.
        if envelope.parameters.size.is_some_and(|declared| declared != size - body_at) {
            return Err(Unfit::WrongFormat(format!(
                "SIZE in X-Sender is {}, but {} octets follow the envelope: either it was never wholly received and never \
                 acknowledged, or it was edited",
                envelope.parameters.size.unwrap_or_default(),
                size - body_at
            )));
        }
        let mut entry = Entry { file, envelope, laid_out_for, body_at, mended: None, size, links: metadata.nlink() };
        if entry.envelope.parameters.size.is_none() {
            let lines = memchr::memchr_iter(b'\n', &entry.head().map_err(Unfit::Unreadable)?).count();
            let found = lines_by_hand::survey(entry.octets(0).map_err(Unfit::Unreadable)?, lines);
            entry.mended = found.map_err(Unfit::Unreadable)?.map_err(|error| Unfit::WrongFormat(error.to_string()))?;
            // A rename would deliver them as they are.
            entry.laid_out_for = entry.laid_out_for.filter(|_| entry.mended.is_none());
        }
        Ok(entry)
    }

    /// Octets after the envelope, as they leave this host.
    pub fn body_size(&self) -> u64 {
        self.mended.unwrap_or(self.size - self.body_at)
    }

    /// The message without its envelope, from its beginning.
    pub fn body(&mut self) -> io::Result<Body<'_>> {
        self.body_after(0)
    }

    /// As [`Entry::body`], without its first `skipped` octets.
    pub fn body_after(&mut self, skipped: u64) -> io::Result<Body<'_>> {
        if self.mended.is_none() {
            return Ok(Body::Plain(self.octets(skipped)?));
        }
        let mut lines = Lines::new(self.octets(0)?);
        io::copy(&mut (&mut lines).take(skipped), &mut io::sink())?;
        Ok(Body::Mended(lines))
    }

    /// The file after the envelope and so many octets more.
    fn octets(&mut self, skipped: u64) -> io::Result<Take<&mut File>> {
        self.file.seek(SeekFrom::Start(self.body_at.saturating_add(skipped)))?;
        let size = (self.size - self.body_at).saturating_sub(skipped);
        Ok((&mut self.file).take(size))
    }

    /// What stands above the message.
    fn head(&mut self) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        (&mut self.file).take(self.body_at).read_to_end(&mut head)?;
        Ok(head)
    }

    /// The header of the message with the empty line after it, or as much of it as [`limits::DROP_HEADER`]. Lines may end
    /// with LF alone: a person may have written them.
    pub fn header(&mut self) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        let mut body = self.body()?.take(limits::DROP_HEADER as u64);
        loop {
            let from = head.len().saturating_sub("\n\r\n".len());
            let read = (&mut body).take(HEADER_STEP).read_to_end(&mut head)?;
            if let Some(end) = header_end(&head, from) {
                head.truncate(end);
                return Ok(head);
            }
            if read == 0 {
                return Ok(head);
            }
        }
    }

    /// Copies the message without its envelope. Returns its octets.
    pub fn copy_body(&mut self, to: &mut impl io::Write) -> io::Result<u64> {
        // Of a plain file the kernel copies by itself.
        let copied = match self.body()? {
            Body::Plain(mut octets) => io::copy(&mut octets, to)?,
            Body::Mended(mut lines) => io::copy(&mut lines, to)?,
        };
        if copied == self.body_size() { Ok(copied) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// A message being read.
#[derive(Debug)]
pub enum Body<'e> {
    /// As the file has it.
    Plain(Take<&'e mut File>),
    /// With line ends that the file does not have.
    Mended(Lines<Take<&'e mut File>>),
}

impl Read for Body<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Body::Plain(octets) => octets.read(out),
            Body::Mended(lines) => lines.read(out),
        }
    }
}

/// Most headers are shorter.
const HEADER_STEP: u64 = 8 * 1024;

/// Where the first empty line of `head` ends; it is looked for after `from`, before which there is none.
fn header_end(head: &[u8], from: usize) -> Option<usize> {
    let empty_line =
        |at: usize| [&b"\r\n"[..], b"\n"].iter().find(|end| head[at..].starts_with(end)).map(|end| at + end.len());
    let starts = memchr::memchr_iter(b'\n', &head[from..]).map(|at| from + at + 1);
    empty_line(0).or_else(|| starts.into_iter().find_map(empty_line))
}

fn read_envelope(file: &File) -> Result<Found, Unfit> {
    let mut head = Vec::new();
    let mut step = limits::COMMAND_LINE as u64;
    loop {
        // One call reads all of it; a vector that grows asks for a little more each time.
        head.reserve(step as usize);
        let read = file.take(step).read_to_end(&mut head).map_err(Unfit::Unreadable)? as u64;
        let at_end = read < step;
        match Envelope::read(&head) {
            // Another envelope field may follow the last one that was read.
            Ok(Some(found)) if at_end || found.octets + "X-Receiver:".len() < head.len() => return Ok(found),
            Ok(None) => return Err(wrong("it does not begin with X-Sender")),
            Err(error) if at_end => return Err(wrong_envelope(&error)),
            _ if head.len() > limits::ENVELOPE => return Err(wrong("its envelope is too long")),
            _ => step = head.len() as u64,
        }
    }
}

fn wrong_envelope(error: &EnvelopeError) -> Unfit {
    Unfit::WrongFormat(error.to_string())
}

fn wrong(what: &str) -> Unfit {
    Unfit::WrongFormat(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn open(content: &str) -> Result<Entry, Unfit> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entry");
        fs::write(&path, content).unwrap();
        Entry::open(&path)
    }

    #[test]
    fn a_whole_entry_is_opened_and_its_body_copied() {
        let mut entry = open("X-Sender: <a@b.org> SIZE=0000000006\r\nX-Receiver: <c@d.org>\r\nbody\r\n").unwrap();
        let mut copy = tempfile::tempfile().unwrap();
        assert_eq!(entry.copy_body(&mut copy).unwrap(), 6);
        assert_eq!((entry.body_size(), entry.links), (6, 1));
    }

    #[test]
    fn the_header_ends_with_its_empty_line() {
        let long = format!("To: b@c.org\r\n{}\r\n", "X-Long: 12345678\r\n".repeat(2000));
        for (message, header) in [
            ("A: b\r\n\r\nbody\r\n\r\n", "A: b\r\n\r\n"),
            ("\r\nbody\r\n\r\n", "\r\n"),
            ("A: b\r\n", "A: b\r\n"),
            (&format!("{long}body"), &long),
        ] {
            let mut entry = open(&format!("X-Sender: <a@b.org>\r\nX-Receiver: <c@d.org>\r\n{message}")).unwrap();
            assert_eq!(entry.header().unwrap(), header.as_bytes());
            assert_eq!(entry.header().unwrap(), header.as_bytes(), "and again");
        }
    }

    #[test]
    fn line_ends_of_a_person_leave_as_cr_lf() {
        let top = "Return-Path: <a@b.org>\nDelivered-To: c@d.org\nX-Sender: <a@b.org>\nX-Receiver: <c@d.org>\n";
        for (message, leaves) in [
            ("A: b\n\n.\nend", "A: b\r\n\r\n.\r\nend\r\n"),
            ("A: b\r\n\nend\r\n", "A: b\r\n\r\nend\r\n"),
            ("A: b\r\n\r\nend\r\n", "A: b\r\n\r\nend\r\n"),
        ] {
            let mut entry = open(&format!("{top}{message}")).unwrap();
            assert_eq!(entry.laid_out_for.is_some(), message == leaves, "only what is as it must be is renamed");
            let mut copy = Vec::new();
            assert_eq!(entry.copy_body(&mut copy).unwrap(), entry.body_size());
            assert_eq!(String::from_utf8(copy).unwrap(), leaves);
            assert_eq!(entry.header().unwrap(), b"A: b\r\n\r\n");
            let mut rest = String::new();
            entry.body_after(8).unwrap().read_to_string(&mut rest).unwrap();
            assert_eq!(rest, leaves[8..]);
        }
        let Err(Unfit::WrongFormat(why)) = open(&format!("{top}A: b\n\na\rb\n")) else { panic!() };
        assert!(why.starts_with("line 7: a CR without LF"), "{why}");
        // What this server wrote is as it was accepted.
        let sized = open("X-Sender: <a@b.org> SIZE=0000000002\r\nX-Receiver: <c@d.org>\r\na\n").unwrap();
        assert_eq!(sized.body_size(), 2);
    }

    #[test]
    fn what_is_torn_or_foreign_has_a_wrong_format() {
        for content in [
            "",
            "From: a@b.org\r\n\r\n",
            "X-Sender: <a@b.org> SIZE=0000000007\r\nX-Receiver: <c@d.org>\r\nbody\r\n",
            "X-Sender: <a@b.org> SIZE=0000000006\r\nX-Recei",
            "X-Sender: <a@b.org> SIZE=0000000006\r\n\r\nbody\r\n",
        ] {
            assert!(matches!(open(content), Err(Unfit::WrongFormat(_))), "{content}");
        }
        let link = tempfile::tempdir().unwrap().keep().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(matches!(Entry::open(&link), Err(Unfit::WrongFormat(_))));
        assert!(matches!(Entry::open(Path::new("/nowhere")), Err(Unfit::Gone)));
        assert!(matches!(Entry::open(Path::new("/dev")), Err(Unfit::WrongFormat(_))));
    }

    #[test]
    fn long_envelopes_are_read_to_their_end() {
        for recipients in [1, 100, 1000, 5000] {
            let receivers: String =
                (0..recipients).map(|at| format!("X-Receiver: <user{at}@example.org>\r\n")).collect();
            let entry = open(&format!("X-Sender: <a@b.org>\r\n{receivers}body\r\n")).unwrap();
            assert_eq!((entry.envelope.recipients.len(), entry.body_size()), (recipients, 6));
        }
    }
}
