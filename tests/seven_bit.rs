//! Messages that were made 7-bit, read by a program of others: Python's `email` sees the same parts before and after, and
//! decodes the same octets.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use postrider::mail::seven_bit::{Rewriter, Survey, Verdict};
use support::have;

/// Reads each pair of files, and says what differs.
const COMPARE: &str = r#"
import email, pathlib, sys

def parts(path):
    octets = path.read_bytes()
    message = email.message_from_bytes(octets)
    return octets, [(part.get_content_type(), part.get_filename(), part.is_multipart(),
                     None if part.is_multipart() else part.get_payload(decode=True)) for part in message.walk()]

pairs = 0
for before in sorted(pathlib.Path(sys.argv[1]).glob('*.before')):
    (old, sent), (new, got) = parts(before), parts(before.with_suffix('.after'))
    assert sent == got, f'{before.name}\n{old!r}\n{new!r}\n{sent}\n{got}'
    assert not any(octet > 127 for octet in new) and all(len(line) <= 998 for line in new.split(b'\r\n')), before.name
    for part in email.message_from_bytes(new).walk():
        assert part['Content-Transfer-Encoding'] not in ('8bit', 'binary'), before.name
    pairs += 1
print(pairs)
"#;

/// Writes LF as CR LF, and `ÿ` as an octet that is no UTF-8.
fn octets(text: &str) -> Vec<u8> {
    let mut found = Vec::new();
    for letter in text.chars() {
        match letter {
            '\n' => found.extend_from_slice(b"\r\n"),
            'ÿ' => found.push(0xff),
            _ => found.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    found
}

/// The message made 7-bit, in blocks of this size; `None` if that can't be.
fn converted(text: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut survey = Survey::new();
    text.chunks(size).for_each(|block| survey.feed(block));
    let Verdict::Convertible(plan) = survey.finish() else { return None };
    let (mut rewriter, mut out) = (Rewriter::new(&plan), Vec::new());
    text.chunks(size).for_each(|block| rewriter.feed(block, &mut out));
    rewriter.finish(&mut out);
    Some(out)
}

/// Converts the messages, each of which must be convertible, and compares what Python reads.
fn compare(folder: &Path, messages: &[Vec<u8>]) {
    for (number, text) in messages.iter().enumerate() {
        let out = converted(text, 4096).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(text)));
        assert_eq!(converted(text, 7).as_ref(), Some(&out));
        fs::write(folder.join(format!("{number:04}.before")), text).unwrap();
        fs::write(folder.join(format!("{number:04}.after")), out).unwrap();
    }
    let output = Command::new("python3").args(["-c", COMPARE]).arg(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.trim(), messages.len().to_string());
}

const MIXED: &str = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"outer b\"\n\n--outer b\n";
const TEXT: &str =
    "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGrüße \n-- \n.\nFrom ä\t\n";
const FILE: &str = "Content-Type: application/x; name=f\nContent-Disposition: attachment; filename=f\n\n";

#[test]
fn python_reads_the_same_parts() {
    if !have("python3", "python_reads_the_same_parts") {
        return;
    }
    let long = format!("{}ä\n", "long ".repeat(300));
    let texts = [
        "Subject: no MIME\n\nGrüße\n".to_owned(),
        "\nno header either, ÿ\n".to_owned(),
        "Subject: x\nno empty line, ÿ\n".to_owned(),
        "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: binary\n\nÿ\n\nÿ".to_owned(),
        format!("MIME-Version: 1.0\n{TEXT}{long}{long}"),
        format!("MIME-Version: 1.0\n{FILE}ÿ\n\n"),
        format!("{MIXED}{TEXT}\n--outer b\n{FILE}ÿ\n{long}\n--outer b--\n"),
        format!("preamble: x\n{MIXED}{TEXT}\n--outer b\n{FILE}plain\n\n--outer b--\nepilogue\n"),
        format!("{MIXED}\n\n--outer b\n\n--outer b\n--outer b\n\n\n\n--outer b\n\nÿ\n--outer b--"),
        format!("{MIXED}{TEXT}"),
        format!("{MIXED}{TEXT}\n--outer b\n{FILE}ÿ\n"),
        format!("{MIXED}{TEXT}\n--outer b\n{FILE}ÿ"),
        format!(
            "{MIXED}{TEXT}\n--outer b\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\nAAAA\n--outer b--\n"
        ),
        format!("{MIXED}{TEXT}\n--outer b\nContent-Transfer-Encoding: quoted-printable\n\n=C3=A4\n--outer b--\n"),
        format!(
            "{MIXED}Content-Type: multipart/alternative;\n boundary=outer\n\n--outer\n{TEXT}\n--outer b2\n--outer\n\
             Content-Type: text/html\n\n<p>ÿ\n--outer--\n\n--outer b \t\n{FILE}ÿ\n--outer b--\n"
        ),
        format!(
            "{MIXED}Content-Type: multipart/related; boundary=i\n\n--i\n{TEXT}\n--outer b\n{TEXT}\n--i\n--outer b--\n"
        ),
        format!("{MIXED}Content-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\n{MIXED}{TEXT}")
            .replacen("outer b", "first", 2),
        format!("{MIXED}Content-Type: message/rfc822\n\nSubject: x\n\nä\n\n--outer b\n{TEXT}--outer b--\n"),
        format!("{}\n\nSubject: x\n\nä\n--outer b\n\n{TEXT}", MIXED.replace("mixed", "digest")),
        format!("MIME-Version: 1.0\nContent-Type: message/rfc822\n\nContent-Type: message/rfc822\n\n{TEXT}"),
        format!("{MIXED}Content-Type: multipart/signed; boundary=s\n\n--s\n\nplain\n--s--\n\n--outer b\n{TEXT}"),
    ];
    let folder = tempfile::tempdir().unwrap();
    compare(folder.path(), &texts.map(|text| octets(&text)));
}

/// A small generator of its own: the messages are the same in every run.
struct Dice(u64);

impl Dice {
    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        choices[usize::try_from(self.0 % choices.len() as u64).unwrap()]
    }

    fn part(&mut self, depth: usize, out: &mut String) {
        let labels = ["", "", "Content-Transfer-Encoding: 8bit\n", "Content-Transfer-Encoding: binary\n"];
        out.push_str(self.one_of(&labels));
        let kinds = ["text", "file", "none", "multipart", "multipart", "message"];
        match self.one_of(&kinds[..if depth < 4 { 6 } else { 3 }]) {
            "multipart" => {
                let boundary = format!("{}{depth}", self.one_of(&["b", "=_", "b b", "--"]));
                *out += &format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\n\n");
                out.push_str(self.one_of(&["", "", "preamble\n", "\n"]));
                while self.one_of(&["more", "more", "end"]) == "more" {
                    *out += &format!("--{boundary}{}\n", self.one_of(&["", "", " \t"]));
                    self.part(depth + 1, out);
                    out.push_str(self.one_of(&["\n", "\n", "\n\n"]));
                }
                if self.one_of(&["closed", "closed", "open"]) == "closed" {
                    *out += &format!("--{boundary}--\n");
                    out.push_str(self.one_of(&["", "epilogue\n"]));
                }
            }
            "message" => {
                out.push_str("Content-Type: message/rfc822\n\nSubject: inside\n");
                self.part(depth + 1, out);
            }
            kind => {
                let fields = [("text", "Content-Type: text/html\n\n"), ("file", FILE), ("none", "\n")];
                out.push_str(fields.iter().find(|(name, _)| *name == kind).unwrap().1);
                while self.one_of(&["more", "more", "more", "more", "more", "end"]) == "more" {
                    out.push_str(self.one_of(&[
                        "\n",
                        "ä",
                        "ÿ",
                        " ",
                        "\t",
                        "=",
                        "--b1",
                        "-",
                        ".",
                        "a line of text",
                        "=20",
                    ]));
                }
            }
        }
    }
}

#[test]
fn python_reads_the_same_parts_of_messages_that_chance_made() {
    if !have("python3", "python_reads_the_same_parts_of_messages_that_chance_made") {
        return;
    }
    let mut dice = Dice(20_261_123);
    let mut messages = Vec::new();
    while messages.len() < 500 {
        let mut text = "Subject: x\n".to_owned();
        dice.part(0, &mut text);
        let text = octets(&text);
        messages.extend(converted(&text, 1000).map(|_| text));
    }
    let folder = tempfile::tempdir().unwrap();
    compare(folder.path(), &messages);
}
