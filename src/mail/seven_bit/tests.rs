//! The two passes together: what is changed, what is refused, and that readers decode what was sent.

use proptest::prelude::*;

use super::encode::tests::{from_base64, from_quoted_printable};
use super::*;

fn survey<'a>(blocks: impl IntoIterator<Item = &'a [u8]>) -> Verdict {
    let mut survey = Survey::new();
    blocks.into_iter().for_each(|block| survey.feed(block));
    survey.finish()
}

fn rewrite<'a>(plan: &Plan, blocks: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut rewriter, mut out) = (Rewriter::new(plan), Vec::new());
    blocks.into_iter().for_each(|block| rewriter.feed(block, &mut out));
    rewriter.finish(&mut out);
    out
}

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

/// The message anew, with LF for line ends; or why not.
fn converted(text: &str) -> Result<String, &'static str> {
    let text = octets(text);
    match survey([&*text]) {
        Verdict::SevenBit => Ok("as it is".to_owned()),
        Verdict::Convertible(plan) => {
            let out = rewrite(&plan, [&*text]);
            Ok(String::from_utf8(out).unwrap().replace("\r\n", "\n"))
        }
        Verdict::Impossible(why) => Err(why),
    }
}

#[test]
fn seven_bits_are_left_alone() {
    for text in [
        "",
        "Subject: x",
        "Subject: x\n\nplain\n",
        "DKIM-Signature: x\nContent-Transfer-Encoding: 8bit\n\nplain\n",
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/mixed\n\nx\n--b--\n",
    ] {
        assert_eq!(converted(text).as_deref(), Ok("as it is"), "{text}");
    }
    // Whatever its lines and its depth are like.
    let deep = "Content-Type: message/rfc822\n\n".repeat(limits::MIME_DEPTH + 2) + "\n" + &"x".repeat(2000);
    assert_eq!(converted(&deep).as_deref(), Ok("as it is"));
    assert_eq!(survey([&b"a\nb\rc"[..]]), Verdict::SevenBit);
}

#[test]
fn a_message_without_parts_is_encoded_as_its_type_asks() {
    for (text, expected) in [
        (
            "Subject: x\n\nGrüße\n",
            "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n\
             Content-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe\n",
        ),
        (
            "MIME-Version: 1.0\nContent-transfer-encoding:\n 8bit\nContent-Type: text/html; charset=latin1\nTo: b\n\nÿ",
            "MIME-Version: 1.0\nContent-Type: text/html; charset=latin1\nTo: b\n\
             Content-Transfer-Encoding: quoted-printable\n\n=FF",
        ),
        (
            "Content-Type: image/png\n\n\nÿ\n",
            "Content-Type: image/png\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\nDQr/DQo=\n",
        ),
        // The header ends with the first line that is no field.
        (
            "MIME-Version: 1.0\nGrüße\n",
            "MIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n\
             Content-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe\n",
        ),
    ] {
        assert_eq!(converted(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn parts_that_need_no_change_have_none_but_their_label() {
    let (long, half) = ("l".repeat(limits::TEXT_LINE + 1), "h".repeat(600));
    let text = format!(
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: 8bit\n\npreamble\n\
         --b\n\nä\n\n--b \nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\nAAAA\n--b2\n\
         --b\nContent-Transfer-Encoding: binary\n\nplain\n--b\n--b\n\n--b\nContent-Type: text/x\n\n{long}\n\
         --b\n\n{half}\n{half}\n--b\n\n{long}\n\
         --b\nDKIM-Signature: x\nContent-Transfer-Encoding: 8bit\n\n{long}\n--b--\nepilogue\n--b\n"
    );
    let folded = format!("{}=\n", "l".repeat(75)).repeat(13) + &"l".repeat(24);
    let expected = format!(
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: 7bit\n\npreamble\n\
         --b\nContent-Type: text/plain; charset=unknown-8bit\nContent-Transfer-Encoding: quoted-printable\n\n\
         =C3=A4\n\n--b \nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\nAAAA\n--b2\n\
         --b\nContent-Transfer-Encoding: 7bit\n\nplain\n--b\n--b\n\n\
         --b\nContent-Type: text/x\nContent-Transfer-Encoding: quoted-printable\n\n{folded}\n\
         --b\n\n{half}\n{half}\n--b\nContent-Transfer-Encoding: quoted-printable\n\n{folded}\n\
         --b\nDKIM-Signature: x\nContent-Transfer-Encoding: 8bit\n\n{long}\n--b--\nepilogue\n--b\n"
    );
    assert_eq!(converted(&text).as_deref(), Ok(&*expected));
}

#[test]
fn messages_inside_and_multiparts_in_multiparts_are_entered() {
    // The inner multipart is never closed, and neither is the outer one.
    let text = "MIME-Version: 1.0\nContent-Type: multipart/digest; boundary=\"b\"\n\n--b\n\nSubject: inner\n\
                Content-Type: multipart/alternative; boundary=\"b b\"\n\n--b b\n\nä\n--b b\nContent-Type: a/b\n\nÿ\n\
                --b\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\nSubject: last\n\nö";
    let expected = "MIME-Version: 1.0\nContent-Type: multipart/digest; boundary=\"b\"\n\n--b\n\nSubject: inner\n\
                    Content-Type: multipart/alternative; boundary=\"b b\"\nMIME-Version: 1.0\n\n--b b\n\
                    Content-Type: text/plain; charset=unknown-8bit\nContent-Transfer-Encoding: quoted-printable\n\n\
                    =C3=A4\n--b b\nContent-Type: a/b\nContent-Transfer-Encoding: base64\n\n/w==\n--b\n\
                    Content-Type: message/rfc822\nContent-Transfer-Encoding: 7bit\n\nSubject: last\n\
                    MIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n\
                    Content-Transfer-Encoding: quoted-printable\n\n=C3=B6";
    assert_eq!(converted(text).as_deref(), Ok(expected));
}

#[test]
fn a_boundary_ends_what_is_inside_and_closes_for_good() {
    let top = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n";
    let inner = "Content-Type: multipart/mixed; boundary=i\n\n--i\n";
    // The inner boundary is text once the outer one came, and the outer one is text once it was the last.
    let text = format!("{top}{inner}\nx\n--b\n\nä\n--i\n\nä\n--b--\n--b\n\nx\n");
    let out = converted(&text).unwrap();
    assert!(out.ends_with("\n\n=C3=A4\n=2D-i\n\n=C3=A4\n--b--\n--b\n\nx\n"), "{out}");
    let closed = format!("{top}{inner}\nx\n--i--\n--i\n\nä\n--b--\n");
    assert_eq!(converted(&closed), Err("8-bit octets stand around the parts of a multipart"));
    // Where the last boundary is missing, the line end before it is not.
    let open = format!("{top}Content-Type: image/png\n\n");
    let start = format!("{}Content-Transfer-Encoding: base64\n\n", &open[..open.len() - 1]);
    assert_eq!(converted(&format!("{open}ÿ\n")), Ok(format!("{start}/w==\n")));
    assert_eq!(converted(&format!("{open}ÿ")), Ok(format!("{start}/w==")));
}

#[test]
fn the_version_stands_in_the_message_and_in_the_one_around_it() {
    let text = "Content-Type: message/rfc822\n\nSubject: x\n\nä\n";
    let expected = "Content-Type: message/rfc822\nMIME-Version: 1.0\n\nSubject: x\nMIME-Version: 1.0\n\
                    Content-Type: text/plain; charset=unknown-8bit\nContent-Transfer-Encoding: quoted-printable\n\n\
                    =C3=A4\n";
    assert_eq!(converted(text).as_deref(), Ok(expected));
}

#[test]
fn a_soft_line_break_makes_no_boundary() {
    let text =
        format!("MIME-Version: 1.0\nContent-Type: multipart/x; boundary=b\n\n--b\n\nä{}--b--\n--b--\n", "x".repeat(69));
    let out = converted(&text).unwrap();
    assert!(out.contains("x=\n=2D-b--\n--b--\n"), "{out}");
}

#[test]
fn what_is_signed_is_not_touched_and_what_stands_beside_it_is() {
    let mixed = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n\n";
    let signed = "Content-Type: multipart/signed; boundary=s\n\n--s\nContent-Transfer-Encoding: 8bit\n\n";
    let sealed = "8-bit octets are under a signature or a key";
    for (text, expected) in [
        ("DKIM-Signature: x\n\nä\n".to_owned(), Err(sealed)),
        ("Subject: x\narc-seal: x\n\nä\n".to_owned(), Err(sealed)),
        (format!("{mixed}ARC-Message-Signature: x\n\nä\n--b--\n"), Err(sealed)),
        (format!("DKIM-Signature: x\n{mixed}\nä\n--b--\n"), Err(sealed)),
        (format!("{mixed}{signed}ä\n--s--\n--b--\n"), Err(sealed)),
        (format!("{mixed}{}ä\n--s--\n", signed.replace("signed", "encrypted")), Err(sealed)),
        (format!("{mixed}{signed}x\n--s--\n--b\n\nä\n--b--\n"), Ok(format!("{mixed}{signed}x\n--s--\n--b\n"))),
        (format!("{mixed}DKIM-Signature: x\n\nx\n--b\n\nä\n"), Ok(format!("{mixed}DKIM-Signature: x\n\nx\n--b\n"))),
    ] {
        match (converted(&text), expected) {
            (Ok(out), Ok(start)) => assert!(out.starts_with(&start) && out.contains("=C3=A4"), "{out}"),
            (found, expected) => assert_eq!(found, expected, "{text}"),
        }
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_its_reason() {
    let mixed = "Content-Type: multipart/mixed; boundary=b\n";
    let many = format!("{mixed}\n{}\nä\n", "--b\n".repeat(limits::MIME_PARTS));
    let deep = "Content-Type: message/rfc822\n\n".repeat(limits::MIME_DEPTH + 1) + "\nä\n";
    let cases = [
        ("Subject: ä\n\nx\n", "header field"),
        ("Subject: x\n\tä\n\nx\n", "header field"),
        (&format!("{mixed}\n--b\nContent-Description: ä\n\n--b--\n"), "header field"),
        (&format!("{mixed}\nä\n--b\n\nx\n--b--\n"), "around the parts"),
        (&format!("{mixed}\n--b\n\nx\n--b--\nä"), "around the parts"),
        ("Content-Transfer-Encoding: base64\n\nä\n", "encoded already"),
        ("Content-Transfer-Encoding: Quoted-Printable (x)\n\nä\n", "encoded already"),
        ("Content-Transfer-Encoding: x-uuencode\n\nä\n", "unknown encoding"),
        ("Content-Type: multipart/mixed\n\nä\n", "no boundary"),
        (&format!("{mixed}Content-Transfer-Encoding: base64\n\n--b\n\nä\n"), "as a whole"),
        ("Content-Type: message/global\n\nSubject: x\n\nä\n", "international"),
        ("Content-Type: message/delivery-status\n\nä\n", "may not be encoded"),
        ("Content-Type: text/plain\nContent-Type: text/html\n\nä\n", "two Content-Type"),
        (" Subject: x\n\nä\n", "blank"),
        (&format!("{mixed}--b\n\nä\n--b--\n"), "no empty line"),
        ("Content-Type: message/rfc822\nä\n", "no empty line"),
        (&format!("{mixed}\n--b\n{mixed}\n--b\n\nä\n"), "told apart"),
        (&format!("{mixed}\n--b\n{}\n--b\n\nä\n", mixed.replace("=b", "=b--")), "told apart"),
        (&many, "too many parts"),
        (&deep, "too deep"),
    ];
    for (text, why) in cases {
        let found = converted(text);
        assert!(matches!(found, Err(said) if said.contains(why)), "{text:.99}: {found:?}");
    }
    for text in [&b"\r\nb\xffa\nb\r\n"[..], b"\r\nb\xffa\rb\r\n", b"\r\nb\xff\r"] {
        assert_eq!(survey([text]), Verdict::Impossible("a CR or an LF stands alone"));
    }
    assert!(converted(&many.replacen("--b\n", "", 1)).is_ok());
    assert!(converted(&deep.replacen("Content-Type: message/rfc822\n\n", "", 1)).is_ok());
}

#[test]
fn memory_stays_flat() {
    let mut rewriter_out = Vec::new();
    let block = [b"\xff".repeat(3000), b"\r\n".to_vec()].concat().repeat(20);
    let mut survey = Survey::new();
    survey.feed(b"\r\n");
    (0..50).for_each(|_| survey.feed(&block));
    let Verdict::Convertible(plan) = survey.finish() else { panic!() };
    let mut rewriter = Rewriter::new(&plan);
    rewriter.feed(b"\r\n", &mut rewriter_out);
    for _ in 0..50 {
        rewriter_out.clear();
        rewriter.feed(&block, &mut rewriter_out);
        assert!(rewriter_out.len() < block.len() * 4);
    }
}

/// A part without parts.
#[derive(Clone, Debug, Default)]
struct Leaf {
    /// The fields of its header but for the encoding.
    header: Vec<u8>,
    encoding: Vec<u8>,
    content: Vec<u8>,
}

fn leaves(text: &[u8]) -> Vec<Leaf> {
    let (mut found, mut leaf) = (Vec::new(), Leaf::default());
    let mut visit = |event: Event<'_>| match event {
        Event::Begin => leaf = Leaf::default(),
        Event::Header(octets, true) => leaf.encoding.extend_from_slice(octets),
        Event::Header(octets, false) => leaf.header.extend_from_slice(octets),
        Event::Text(octets) => leaf.content.extend_from_slice(octets),
        Event::LineEnd => leaf.content.extend_from_slice(b"\r\n"),
        Event::End(_) => found.push(leaf.clone()),
        Event::Body(..) | Event::Frame(_) => {}
    };
    let mut walk = Walk::default();
    walk.feed(text, &mut visit);
    walk.finish(&mut visit);
    found
}

/// Lines that make structure, in an order that chance gives.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        6 => prop::sample::select(vec![
            "--a\n", "--b\n", "--a--\n", "--b--\n", "--ab\n", "--ab-- \n", "\n", "\n", "text\n", "- ä\n", "ÿÿÿÿ",
            "MIME-Version: 1.0\n", "Content-Transfer-Encoding: 8bit\n", "Content-Transfer-Encoding: binary\n",
            "Content-Type: text/plain\n", "Content-Type: image/png\n", "Subject: x\n\ty\n", " \n", "=41 \t\n",
        ])
        .prop_map(octets),
        2 => prop::sample::select(vec!["a", "b", "ab"]).prop_map(|boundary| {
            octets(&format!("Content-Type: multipart/mixed; boundary={boundary}\n\n--{boundary}\n"))
        }),
        1 => prop::sample::select(vec![
            "Content-Type: message/rfc822\n\n", "DKIM-Signature: x\n", "Content-Transfer-Encoding: base64\n",
            "Content-Type: multipart/digest; boundary=a\n\n--a\n", "\n-ü-b\n", "Ä: x\n", "\r", "\u{0}\n",
        ])
        .prop_map(octets),
        1 => (900..1100usize).prop_map(|length| "ü-\t".repeat(length).into_bytes()),
    ];
    prop::collection::vec(line, 0..25).prop_map(|lines| lines.concat())
}

/// Trees as programs make them.
fn tree() -> impl Strategy<Value = Vec<u8>> {
    let labels = ["", "Content-Transfer-Encoding: 8bit\n", "Content-Transfer-Encoding: binary\n"];
    let types = ["", "Content-Type: text/html; charset=utf-8\n", "Content-Type: image/png\n"];
    let leaf = ("[-a= \t\n.üÿ]{0,120}", prop::sample::select(labels.to_vec()), prop::sample::select(types.to_vec()))
        .prop_map(|(text, label, kind)| octets(&format!("{label}{kind}\n{text}")));
    leaf.prop_recursive(3, 20, 4, |inner| {
        let parts = (prop::collection::vec(inner.clone(), 0..4), any::<u32>(), any::<[bool; 2]>());
        let multipart = parts.prop_map(|(parts, boundary, [is_closed, has_preamble])| {
            let mut text = octets(&format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\n\n"));
            text.extend(if has_preamble { octets("Some words.\n") } else { Vec::new() });
            for part in parts {
                text.extend([octets(&format!("--{boundary}\n")), part, octets("\n")].concat());
            }
            text.extend(if is_closed { octets(&format!("--{boundary}--\n")) } else { Vec::new() });
            text
        });
        let message = inner.prop_map(|inner| {
            [octets("Content-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\nSubject: x\n"), inner].concat()
        });
        prop_oneof![3 => multipart, 1 => message]
    })
}

fn longest_line(text: &[u8]) -> usize {
    text.split(|&octet| octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line).len()).max().unwrap_or(0)
}

/// What holds for every message.
fn keep_the_promises(text: &[u8], size: usize) -> Result<bool, TestCaseError> {
    let verdict = survey([text]);
    prop_assert_eq!(&survey(text.chunks(size)), &verdict);
    prop_assert_eq!(verdict == Verdict::SevenBit, text.is_ascii());
    let Verdict::Convertible(plan) = verdict else { return Ok(false) };
    let out = rewrite(&plan, [text]);
    prop_assert_eq!(&rewrite(&plan, text.chunks(size)), &out);
    prop_assert!(out.is_ascii());
    prop_assert!(longest_line(&out) <= limits::TEXT_LINE.max(longest_line(text)));
    let (before, after) = (leaves(text), leaves(&out));
    prop_assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        let decoded = match std::str::from_utf8(&after.encoding).unwrap().split_once(": ") {
            _ if after.encoding == before.encoding => after.content.clone(),
            Some((_, "base64\r\n")) => from_base64(&after.content),
            Some((_, "quoted-printable\r\n")) => from_quoted_printable(&after.content),
            _ => after.content.clone(),
        };
        prop_assert!(
            before.content == decoded,
            "{:?}\n{:?}",
            String::from_utf8_lossy(text),
            String::from_utf8_lossy(&out)
        );
        prop_assert!(after.header.starts_with(&before.header));
    }
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn any_lines_keep_the_promises(text in soup(), size in 1..50usize) {
        keep_the_promises(&text, size)?;
    }

    #[test]
    fn trees_are_converted_and_decode_to_the_same(text in tree(), size in 1..50usize) {
        prop_assert!(keep_the_promises(&text, size)? || text.is_ascii());
    }

    #[test]
    fn any_octets_keep_the_promises(text in prop::collection::vec(any::<u8>(), 0..200), size in 1..50usize) {
        keep_the_promises(&text, size)?;
        // A plan that is another message's does no harm.
        let plan = Plan { parts: vec![Change { encoding: Some(NewEncoding::Base64), ..Change::default() }] };
        rewrite(&plan, text.chunks(size));
    }
}
