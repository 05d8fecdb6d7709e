//! What the server and its second process say to one another: each message a frame of bounded length, each a value.
//!
//! ```text
//! server  run-as␀postrider␀file␀/etc/postrider/key.pem␀folder␀/etc/letsencrypt/live␀command␀2␀/usr/bin/token␀ann
//! keeper  0 done
//! server  1 read 0
//! keeper  1 done⏎-----BEGIN PRIVATE KEY-----⏎…
//! server  2 below 0 privkey.pem mail.example.org
//! keeper  2 failed missing⏎/etc/letsencrypt/live/mail.example.org/privkey.pem: No such file or directory
//! ```
//!
//! A request holds numbers into the list of the first message, and checked names: no path and no command can be said
//! after it. What is no message ends the conversation.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::limits;

/// What the second process may be asked for, as the configuration had it at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The account that commands run as; unset, the one that runs the second process.
    pub run_as: Option<String>,
    /// Files that may be read.
    pub files: Vec<PathBuf>,
    /// Folders in which `NAME/fullchain.pem` and `NAME/privkey.pem` may be read.
    pub folders: Vec<PathBuf>,
    /// Commands that may be run: the program and its arguments.
    pub commands: Vec<Vec<String>>,
}

impl Allowed {
    /// The request that reads `path`, if it is one of those allowed.
    pub fn wish_for(&self, path: &Path) -> Option<Wish> {
        if let Some(at) = self.files.iter().position(|file| file == path) {
            return Some(Wish::Read(at));
        }
        self.folders.iter().enumerate().find_map(|(at, folder)| {
            let mut inner = path.strip_prefix(folder).ok()?.components();
            let (Some(Component::Normal(name)), Some(Component::Normal(pem)), None) =
                (inner.next(), inner.next(), inner.next())
            else {
                return None;
            };
            Some(Wish::Below(at, Pem::parse(pem.to_str()?)?, Name::parse(name.to_str()?)?))
        })
    }

    /// The frame of it. Fails where a NUL is in a path or a word, as no system would take it.
    pub fn print(&self) -> io::Result<Vec<u8>> {
        let mut fields: Vec<&[u8]> = Vec::new();
        let counts: Vec<String> = self.commands.iter().map(|command| command.len().to_string()).collect();
        fields.extend(self.run_as.iter().flat_map(|account| [&b"run-as"[..], account.as_bytes()]));
        fields.extend(self.files.iter().flat_map(|path| [b"file", path.as_os_str().as_bytes()]));
        fields.extend(self.folders.iter().flat_map(|path| [b"folder", path.as_os_str().as_bytes()]));
        for (command, count) in self.commands.iter().zip(&counts) {
            fields.extend([b"command", count.as_bytes()]);
            fields.extend(command.iter().map(|word| word.as_bytes()));
        }
        if fields.iter().any(|field| field.contains(&0)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is a NUL in a path or a command"));
        }
        Ok(fields.join(&0))
    }

    /// Reads what [`Allowed::print`] wrote.
    pub fn parse(frame: &[u8]) -> Option<Allowed> {
        let mut allowed = Allowed::default();
        let mut fields = frame.split(|octet| *octet == 0);
        let text = |field: &[u8]| String::from_utf8(field.to_owned()).ok();
        while let Some(key) = fields.next().filter(|_| !frame.is_empty()) {
            let value = fields.next()?;
            let path = || PathBuf::from(OsStr::from_bytes(value));
            match key {
                b"run-as" => allowed.run_as = Some(text(value)?),
                b"file" => allowed.files.push(path()),
                b"folder" => allowed.folders.push(path()),
                b"command" => {
                    let count = text(value)?.parse().ok()?;
                    let words: Option<Vec<String>> = fields.by_ref().take(count).map(text).collect();
                    allowed.commands.push(words.filter(|words| words.len() == count && count > 0)?);
                }
                _ => return None,
            }
        }
        Some(allowed)
    }
}

/// The name of a folder in one of [`Allowed::folders`]: it leads nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// Takes a name of at most 255 octets without a slash, a control character, or a dot in front.
    pub fn parse(text: &str) -> Option<Name> {
        let fits = (1..=255).contains(&text.len()) && !text.starts_with('.');
        (fits && !text.contains(|letter: char| letter == '/' || letter.is_control())).then(|| Name(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The two files of a certificate, as certbot and others lay them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pem {
    /// The certificate with its chain.
    Chain,
    /// Its key.
    Key,
}

impl Pem {
    /// The name of the file.
    pub fn file_name(self) -> &'static str {
        match self {
            Pem::Chain => "fullchain.pem",
            Pem::Key => "privkey.pem",
        }
    }

    fn parse(text: &str) -> Option<Pem> {
        [Pem::Chain, Pem::Key].into_iter().find(|pem| pem.file_name() == text)
    }
}

/// What is asked for, by its place in [`Allowed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The content of a file.
    Read(usize),
    /// The names in a folder, one a line.
    List(usize),
    /// The content of a file below a folder.
    Below(usize, Pem, Name),
    /// What a command prints.
    Run(usize),
    /// The name of an account, or nothing where there is none of this number.
    Account(u32),
}

/// A wish with the number that its answer bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Not 0, which is the answer to the first message.
    pub id: u64,
    /// What is asked for.
    pub wish: Wish,
}

impl fmt::Display for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.id;
        match &self.wish {
            Wish::Read(at) => write!(out, "{id} read {at}"),
            Wish::List(at) => write!(out, "{id} list {at}"),
            Wish::Below(at, pem, name) => write!(out, "{id} below {at} {} {}", pem.file_name(), name.as_str()),
            Wish::Run(at) => write!(out, "{id} run {at}"),
            Wish::Account(number) => write!(out, "{id} account {number}"),
        }
    }
}

impl Request {
    /// Reads what was printed.
    pub fn parse(frame: &[u8]) -> Option<Request> {
        let text = std::str::from_utf8(frame).ok()?;
        let (id, rest) = text.split_once(' ')?;
        let (verb, rest) = rest.split_once(' ')?;
        let (at, inner) = rest.split_once(' ').map_or((rest, None), |(at, inner)| (at, Some(inner)));
        let id = id.parse().ok()?;
        if verb == "account" {
            return Some(Request { id, wish: Wish::Account(rest.parse().ok()?) });
        }
        let at = at.parse().ok()?;
        let wish = match (verb, inner) {
            ("read", None) => Wish::Read(at),
            ("list", None) => Wish::List(at),
            ("run", None) => Wish::Run(at),
            ("below", Some(inner)) => {
                let (pem, name) = inner.split_once(' ')?;
                Wish::Below(at, Pem::parse(pem)?, Name::parse(name)?)
            }
            _ => return None,
        };
        Some(Request { id, wish })
    }
}

/// What came of a wish.
#[derive(Debug)]
pub struct Answer {
    /// The number of the request.
    pub id: u64,
    /// The content, or why there is none; of an error only its words and a few kinds survive the way.
    pub result: io::Result<Vec<u8>>,
}

/// The kinds of errors that whoever asks may want to tell apart.
const KINDS: [(&str, io::ErrorKind); 4] = [
    ("missing", io::ErrorKind::NotFound),
    ("denied", io::ErrorKind::PermissionDenied),
    ("late", io::ErrorKind::TimedOut),
    ("other", io::ErrorKind::Other),
];

impl Answer {
    /// The frame of it.
    pub fn print(&self) -> Vec<u8> {
        match &self.result {
            Ok(content) => [format!("{} done\n", self.id).as_bytes(), content].concat(),
            Err(error) => {
                let kind = KINDS.iter().find(|(_, kind)| *kind == error.kind()).map_or("other", |(word, _)| word);
                format!("{} failed {kind}\n{error}", self.id).into_bytes()
            }
        }
    }

    /// Reads what was printed.
    pub fn parse(frame: &[u8]) -> Option<Answer> {
        let end = memchr::memchr(b'\n', frame)?;
        let (head, rest) = (std::str::from_utf8(&frame[..end]).ok()?, &frame[end + 1..]);
        let (id, outcome) = head.split_once(' ')?;
        let result = match outcome.strip_prefix("failed ") {
            None if outcome == "done" => Ok(rest.to_owned()),
            None => return None,
            Some(word) => {
                let (_, kind) = KINDS.iter().find(|(known, _)| *known == word)?;
                Err(io::Error::new(*kind, String::from_utf8_lossy(rest).into_owned()))
            }
        };
        Some(Answer { id: id.parse().ok()?, result })
    }
}

/// Octets of the longest answer: a file, and the line above it.
pub const LONGEST_ANSWER: usize = limits::CERTIFICATE_FILE + 64;

/// Writes one frame: its length in four octets, then itself.
pub fn write_frame(mut to: impl Write, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    to.write_all(&[&length.to_be_bytes(), body].concat())
}

/// Reads one frame of at most `most` octets; `None` at the end of the conversation.
pub fn read_frame(mut from: impl Read, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if from.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut length[1..])?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the frame is too long"));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn allowed() -> Allowed {
        Allowed {
            run_as: Some("postrider".into()),
            files: vec!["/etc/key.pem".into(), OsStr::from_bytes(b"/odd \xff\n").into()],
            folders: vec!["/live".into()],
            commands: vec![vec!["/bin/token".into(), String::new(), "--of ann".into()], vec!["x".into()]],
        }
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for allowed in [allowed(), Allowed::default(), Allowed { run_as: None, ..allowed() }] {
            assert_eq!(Allowed::parse(&allowed.print().unwrap()).unwrap(), allowed);
        }
        let name = Name::parse("mail.example.org-0001").unwrap();
        for wish in
            [Wish::Read(0), Wish::List(2), Wish::Below(1, Pem::Key, name), Wish::Run(usize::MAX), Wish::Account(7)]
        {
            let request = Request { id: 7, wish };
            assert_eq!(Request::parse(request.to_string().as_bytes()), Some(request));
        }
        let answer = Answer::parse(&Answer { id: 3, result: Ok(b"\n\xff\n".into()) }.print()).unwrap();
        assert_eq!((answer.id, answer.result.unwrap()), (3, b"\n\xff\n".to_vec()));
        for (_, kind) in KINDS {
            let error = io::Error::new(kind, "why\nso");
            let read = Answer::parse(&Answer { id: 4, result: Err(error) }.print()).unwrap().result.unwrap_err();
            assert_eq!((read.kind(), read.to_string().as_str()), (kind, "why\nso"));
        }
    }

    #[test]
    fn a_request_names_nothing_but_what_is_allowed() {
        for text in [
            "",
            "1",
            "1 read",
            "1 read -1",
            "1 read 1 x",
            "1 read /etc/shadow",
            "1 list",
            "1 run sh",
            "x read 1",
            "1 below 0 shadow mail",
            "1 below 0 privkey.pem ..",
            "1 below 0 privkey.pem a/b",
            "1 below 0 privkey.pem ",
            "1 below 0 privkey.pem .",
            "1 below 0 ../privkey.pem a",
            "1 below 0 privkey.pem a\0",
            "1 read 0\n",
            "1 exec 0",
            "1 account ann",
            "1 account 0 0",
            "1 account -1",
            "1 read 99999999999999999999999",
        ] {
            assert_eq!(Request::parse(text.as_bytes()), None, "{text:?}");
        }
        for list in ["file", "run-as\0\u{0}x", "command\x000", "command\x002\x00a", "command\0x", "secret\0x"] {
            assert_eq!(Allowed::parse(list.as_bytes()), None, "{list:?}");
        }
        let nul = Allowed { commands: vec![vec!["a\0b".into()]], ..Allowed::default() };
        assert!(nul.print().is_err());
    }

    #[test]
    fn a_path_is_found_by_its_place_or_below_a_folder() {
        let key = |name: &str| Some(Wish::Below(0, Pem::Key, Name::parse(name).unwrap()));
        for (path, wish) in [
            ("/etc/key.pem", Some(Wish::Read(0))),
            ("/live/a.example/privkey.pem", key("a.example")),
            ("/live/../privkey.pem", None),
            ("/live/a/b/privkey.pem", None),
            ("/live/privkey.pem", None),
            ("/live/a/cert.pem", None),
            ("/etc/shadow", None),
        ] {
            assert_eq!(allowed().wish_for(Path::new(path)), wish, "{path}");
        }
    }

    #[test]
    fn frames_are_bounded_and_whole() {
        let mut wire = Vec::new();
        write_frame(&mut wire, b"one").unwrap();
        write_frame(&mut wire, b"").unwrap();
        let mut from = &wire[..];
        assert_eq!(read_frame(&mut from, 3).unwrap().unwrap(), b"one");
        assert_eq!(read_frame(&mut from, 0).unwrap().unwrap(), b"");
        assert_eq!(read_frame(&mut from, 3).unwrap(), None);
        assert_eq!(read_frame(&wire[..], 2).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read_frame(&wire[..5], 3).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read_frame(&wire[..2], 3).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn no_octets_break_it(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = (Request::parse(&octets), Answer::parse(&octets), Allowed::parse(&octets));
            let _ = read_frame(&octets[..], 16);
        }
    }
}
