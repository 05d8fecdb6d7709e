//! The session's table, cell by cell, and what it counts.

use super::*;

struct Open;

/// More than two short recipients, and less than one long one.
const ROOM: usize = 600;

impl Policy for Open {
    fn hostname(&self) -> &str {
        "mail.example.org"
    }
    fn message_size(&self) -> u64 {
        1000
    }
    fn recipients(&self) -> usize {
        2
    }
    fn errors(&self) -> u32 {
        3
    }
    fn sender(&self, _: &ReversePath, _: &MailParameters, _: Option<&Address>) -> Result<(), Reply> {
        Ok(())
    }
    fn recipient(&self, path: &ForwardPath, _: &ReversePath, _: Option<&Address>) -> Result<Address, Reply> {
        match path {
            ForwardPath::Address(address) if address.local_part() != "no" => Ok(address.clone()),
            _ => Err(reply::no_such_mailbox()),
        }
    }
    fn heeded(&self, parameters: RcptParameters, _: Option<&Address>) -> RcptParameters {
        parameters
    }
    fn envelope_may_have(&self, octets: usize) -> bool {
        octets < ROOM
    }
    fn verify(&self, _: &str) -> Reply {
        reply::cannot_verify()
    }
    fn expand(&self, _: &str) -> Reply {
        reply::cannot_expand()
    }
    fn bring_forward(&self, _: &Domain) -> Reply {
        reply::nothing_waits()
    }
}

fn offering() -> Terms {
    Terms { submission: false, tls: Tls::Offered, mechanisms: vec!["PLAIN"], log_in_under_tls: false }
}

fn step(session: &mut Session, line: &str) -> Next {
    session.step(Command::parse(line.as_bytes()), &Open)
}

/// What `next` is, in the words of the table.
fn cell(next: &Next) -> String {
    match next {
        Next::Reply(reply) => reply.code().to_string(),
        Next::Close(reply) => format!("close {}", reply.code()),
        Next::Data(envelope) => format!("message for {}", envelope.recipients.len()),
        Next::Chunk { size, last, envelope } => format!("chunk {size} {last} {}", envelope.is_some()),
        Next::Swallow(size, reply) => format!("swallow {size} {}", reply.code()),
        Next::StartTls(reply) => format!("tls {}", reply.code()),
        Next::Auth { mechanism, initial } => format!("{mechanism} {}", initial.is_some()),
    }
}

fn name(session: &Session) -> &'static str {
    match &session.state {
        State::Connected => "Connected",
        State::Greeted(_, Transaction::None) => "Greeted",
        State::Greeted(_, Transaction::Mail(..)) => "Mail",
        State::Greeted(_, Transaction::Rcpt(_)) => "Rcpt",
        State::Greeted(_, Transaction::Chunks) => "Chunks",
        State::Greeted(_, Transaction::Refused) => "Refused",
    }
}

fn in_state(state: &str) -> Session {
    let mut session = Session::new(offering());
    let lines = ["EHLO a", "MAIL FROM:<a@b.org>", "RCPT TO:<c@d.org>", "BDAT 1"];
    let states = ["Connected", "Greeted", "Mail", "Rcpt", "Chunks", "Refused"];
    let steps = states.iter().position(|name| *name == state).unwrap();
    lines.iter().take(steps).for_each(|line| _ = step(&mut session, line));
    if state == "Refused" {
        session.chunk_refused();
    }
    assert_eq!(name(&session), state);
    session
}

/// Every cell of the table at the top of this file: command × state → what happens, and the state after it.
#[test]
fn every_cell_of_the_table_holds() {
    const STATES: [&str; 6] = ["Connected", "Greeted", "Mail", "Rcpt", "Chunks", "Refused"];
    let same = |what: &str| STATES.map(|state| (what.to_owned(), state));
    let refused = |what: &str, except: &[(usize, &str, &'static str)]| {
        let mut cells = same(what);
        except.iter().for_each(|(at, what, state)| cells[*at] = ((*what).to_owned(), *state));
        cells
    };
    let all = |what: &str, state: &'static str| STATES.map(|_| (what.to_owned(), state));
    let mut rset = all("250", "Greeted");
    rset[0] = ("250".to_owned(), "Connected");
    let chunks = [(3, "chunk 7 false true", "Chunks"), (4, "chunk 7 false false", "Chunks")];
    let last = [(3, "chunk 7 true true", "Chunks"), (4, "chunk 7 true false", "Chunks")];
    let rows = [
        ("EHLO a", all("250", "Greeted")),
        ("HELO a", all("250", "Greeted")),
        ("STARTTLS", refused("503", &[(1, "tls 220", "Greeted")])),
        ("AUTH plain AGEAYg==", refused("503", &[(1, "PLAIN true", "Greeted")])),
        ("ETRN b.org", refused("503", &[(1, "251", "Greeted")])),
        ("MAIL FROM:<a@b.org>", refused("503", &[(1, "250", "Mail")])),
        ("RCPT TO:<e@f.org>", refused("503", &[(2, "250", "Rcpt"), (3, "250", "Rcpt")])),
        ("DATA", refused("503", &[(3, "message for 1", "Rcpt")])),
        ("BDAT 7", refused("swallow 7 503", &chunks)),
        ("BDAT 7 LAST", refused("swallow 7 503", &last)),
        ("RSET", rset),
        ("NOOP", same("250")),
        ("HELP", same("214")),
        ("VRFY a", same("252")),
        ("EXPN a", same("550")),
        ("QUIT", same("close 221")),
        ("BDAT x", same("close 501")),
        ("FOO", same("500")),
    ];
    for (line, cells) in rows {
        for (state, (what, after)) in STATES.into_iter().zip(cells) {
            let mut session = in_state(state);
            let next = step(&mut session, line);
            assert_eq!((cell(&next), name(&session)), (what, after), "{line} in {state}");
        }
    }
}

#[test]
fn after_a_message_the_session_is_as_after_its_hello() {
    for state in ["Rcpt", "Chunks"] {
        let mut session = in_state(state);
        session.message_over(true);
        assert_eq!(name(&session), "Greeted");
    }
}

#[test]
fn a_refused_recipient_leaves_the_transaction_as_it_was() {
    let mut session = in_state("Mail");
    assert_eq!(cell(&step(&mut session, "RCPT TO:<no@d.org>")), "550");
    assert_eq!(name(&session), "Mail");
    assert_eq!(cell(&step(&mut session, "DATA")), "503");
}

#[test]
fn recipients_are_counted_once_each() {
    let mut session = in_state("Rcpt");
    for (line, expected) in [("c", "250"), ("c", "250"), ("d", "250"), ("e", "452")] {
        assert_eq!(cell(&step(&mut session, &format!("RCPT TO:<{line}@d.org>"))), expected);
    }
    for number in 0..10 {
        let beyond = step(&mut session, &format!("RCPT TO:<{number}@d.org>"));
        assert_eq!(cell(&beyond), "452", "it is no error, of which three are allowed");
    }
    assert_eq!(cell(&step(&mut session, "DATA")), "message for 2");
}

#[test]
fn recipients_without_room_are_for_another_transaction() {
    let mut session = Session::new(offering());
    let long = format!("RCPT TO:<b@example.org> ORCPT=rfc822;{}", "o".repeat(ROOM - 100));
    let lines = ["EHLO a", "MAIL FROM:<a@b.org>", "RCPT TO:<a@example.org>", &long, "RCPT TO:<c@example.org>"];
    let codes: Vec<String> = lines.iter().map(|line| cell(&step(&mut session, line))).collect();
    assert_eq!(codes, ["250", "250", "250", "452", "250"]);
    assert!(session.has_envelope());
    assert_eq!(cell(&step(&mut session, "DATA")), "message for 2");
    session.message_over(true);
    assert!(!session.has_envelope());
}

#[test]
fn international_recipients_need_smtputf8() {
    let mut session = in_state("Mail");
    assert_eq!(cell(&step(&mut session, "RCPT TO:<jörg@d.org>")), "553");
    let mut session = in_state("Greeted");
    step(&mut session, "MAIL FROM:<jörg@b.org> SMTPUTF8");
    assert_eq!(cell(&step(&mut session, "RCPT TO:<jörg@d.org>")), "250");
}

#[test]
fn errors_and_idle_commands_come_to_an_end() {
    let mut session = Session::new(offering());
    let codes: Vec<String> = (0..4).map(|_| cell(&step(&mut session, "FOO"))).collect();
    assert_eq!(codes, ["500", "500", "500", "close 421"]);
    let mut session = Session::new(offering());
    for _ in 0..limits::IDLE_COMMANDS + Open.recipients() {
        assert_eq!(cell(&step(&mut session, "NOOP")), "250");
    }
    assert_eq!(cell(&step(&mut session, "NOOP")), "close 421");
}

#[test]
fn logging_in_is_offered_where_it_may_be_and_once() {
    let under = |tls, log_in_under_tls| {
        let mut session = Session::new(Terms { tls, log_in_under_tls, ..offering() });
        let Next::Reply(hello) = step(&mut session, "EHLO a") else { panic!() };
        (hello.to_string().contains("AUTH PLAIN"), hello.to_string().contains("STARTTLS"), session)
    };
    let (auth, starttls, mut session) = under(Tls::Offered, true);
    assert!(!auth && starttls);
    assert_eq!(cell(&step(&mut session, "AUTH PLAIN")), "538");
    let (auth, starttls, mut session) = under(Tls::Active, true);
    assert!(auth && !starttls);
    assert_eq!(cell(&step(&mut session, "STARTTLS")), "503");
    assert_eq!(cell(&step(&mut session, "AUTH GSSAPI")), "504");
    assert_eq!(cell(&step(&mut session, "AUTH PLAIN")), "PLAIN false");
    session.logged_in("ann@b.org".parse().unwrap());
    assert_eq!(cell(&step(&mut session, "AUTH PLAIN")), "503");
    step(&mut session, "EHLO again");
    assert!(session.user().is_some(), "RFC 4954 §4: a second EHLO forgets nobody");
    let mut old = Session::new(offering());
    step(&mut old, "HELO a");
    assert_eq!(cell(&step(&mut old, "AUTH PLAIN")), "503");
    let mut bare = Session::new(Terms::default());
    step(&mut bare, "EHLO a");
    assert_eq!(
        (cell(&step(&mut bare, "STARTTLS")), cell(&step(&mut bare, "AUTH PLAIN"))),
        ("500".into(), "500".into())
    );
}

#[test]
fn that_tls_is_required_can_be_said_under_tls_alone() {
    for (tls, expected) in [(Tls::None, "555"), (Tls::Offered, "555"), (Tls::Active, "250")] {
        let mut session = Session::new(Terms { tls, ..offering() });
        let Next::Reply(hello) = step(&mut session, "EHLO a") else { panic!() };
        assert_eq!(hello.to_string().contains("REQUIRETLS"), tls == Tls::Active, "{tls:?}");
        assert_eq!(cell(&step(&mut session, "MAIL FROM:<a@b.org> REQUIRETLS")), expected, "{tls:?}");
        assert_eq!(cell(&step(&mut session, "RCPT TO:<c@d.org>")), if expected == "250" { "250" } else { "503" });
    }
}

#[test]
fn who_is_said_to_have_submitted_it_is_not_kept() {
    let mut session = Session::new(offering());
    step(&mut session, "EHLO a");
    assert_eq!(cell(&step(&mut session, "MAIL FROM:<a@b.org> AUTH=<>")), "250");
    step(&mut session, "RCPT TO:<c@d.org>");
    let Next::Data(envelope) = step(&mut session, "DATA") else { panic!() };
    assert_eq!(envelope.parameters, MailParameters::default());
    let mut bare = Session::new(Terms { mechanisms: Vec::new(), ..offering() });
    step(&mut bare, "EHLO a");
    assert_eq!(cell(&step(&mut bare, "MAIL FROM:<a@b.org> AUTH=<>")), "555");
}

#[test]
fn submission_is_for_those_who_log_in() {
    let mut session = Session::new(Terms { submission: true, ..offering() });
    step(&mut session, "EHLO a");
    assert_eq!(cell(&step(&mut session, "MAIL FROM:<a@b.org>")), "530");
    assert_eq!(cell(&step(&mut session, "ETRN b.org")), "500");
    session.logged_in("a@b.org".parse().unwrap());
    assert_eq!(cell(&step(&mut session, "MAIL FROM:<a@b.org>")), "250");
}
