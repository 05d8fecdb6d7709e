//! One line of SMTP: what is a command is read as the same when it is written plainly, and what is none gets a 5yz.

use postrider::limits;
use postrider::mail::address::ForwardPath;
use postrider::smtpd::command::{Command, Query};

use super::{is_one_line, session};

pub fn check(line: &[u8]) {
    let command = match Command::parse(line) {
        Ok(command) => command,
        Err(refusal) => {
            let mut reply = Vec::new();
            refusal.reply.write_to(&mut reply);
            session::check_reply(&reply);
            assert!((500..600).contains(&refusal.reply.code()));
            assert!(!refusal.close || line.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT")));
            return;
        }
    };
    let verb = line.split(|octet| *octet == b' ').next().unwrap_or_default();
    assert!(verb.eq_ignore_ascii_case(command.verb().as_bytes()), "{command:?}");
    let spaced = [&verb.to_ascii_lowercase(), &line[verb.len()..], b"  "].concat();
    assert_eq!(Command::parse(&spaced), Ok(command.clone()), "in small letters, with spaces at the end");
    if let Some(plain) = written(&command) {
        assert!(is_one_line(&plain), "{plain:?}");
        assert_eq!(Command::parse(plain.as_bytes()), Ok(command), "written plainly: {plain:?}");
    }
}

/// The command as one would write it.
fn written(command: &Command) -> Option<String> {
    Some(match command {
        Command::Ehlo(name) | Command::Helo(name) => {
            assert!(!name.is_empty() && name.len() <= limits::DOMAIN);
            format!("{} {name}", command.verb())
        }
        Command::Auth { mechanism, initial } => match initial {
            Some(initial) => format!("AUTH {mechanism} {}", initial.0),
            None => format!("AUTH {mechanism}"),
        },
        Command::Mail(path, parameters) => format!("MAIL FROM:{path}{parameters}"),
        // Whether it came in ASCII alone is a word about the line, not about what it says.
        Command::Rcpt(ForwardPath::Address(address), parameters, is_ascii) => {
            let plain = format!("RCPT TO:<{address}>{parameters}");
            if plain.is_ascii() != *is_ascii {
                return None;
            }
            plain
        }
        Command::Rcpt(ForwardPath::Postmaster, parameters, _) => format!("RCPT TO:<Postmaster>{parameters}"),
        Command::Bdat(size, last) => format!("BDAT {size}{}", if *last { " LAST" } else { "" }),
        Command::Vrfy(query) | Command::Expn(query) => {
            let Query { name, smtputf8 } = query;
            format!("{} {name}{}", command.verb(), if *smtputf8 { " SMTPUTF8" } else { "" })
        }
        Command::Etrn(domain) => format!("ETRN {domain}"),
        simple => simple.verb().to_owned(),
    })
}

pub fn seeds() -> Vec<Vec<u8>> {
    let more: [&[u8]; 8] = [
        b"MAIL FROM:<ann@example.org> SIZE=00000000000000000001 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb",
        b"RCPT TO:<bob@example.org> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;bob+40example.org",
        b"RCPT TO:<bob@example.org> ORCPT=utf-8;b\\x{F6}b@example.org NOTIFY=NEVER",
        "RCPT TO:<jörg@bücher.example>".as_bytes(),
        "VRFY jörg SMTPUTF8".as_bytes(),
        b"ETRN @example.org",
        b"AUTH plain AGFubgBzZWNyZXQ=",
        b"BDAT 18446744073709551615 last",
    ];
    super::dialogues::lines(false).into_iter().chain(more.map(<[u8]>::to_vec)).collect()
}
