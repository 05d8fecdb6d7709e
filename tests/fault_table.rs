//! The whole server and a next hop with one fault: what the sender gets, and how many copies arrive.
//!
//! Each cell is a next hop of its own that shows its fault once, in the first session, and then behaves well. Ann sends
//! one message to each. What is promised: it arrives once; if the fault came after the final dot, the hop may have it
//! twice, and has said yes to one only; what a hop refuses for good is one report with the right status, and nothing else
//! comes back. `cargo test --test fault_table -- --nocapture` prints the table.

mod support;

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use support::hop::{Act, Heard, ehlo, say, usual};
use support::sink::{REFUSAL, is_refusal};
use support::street::{Script, Street};
use support::{Server, eventually, files};

const STAGES: [&str; 10] =
    ["connection", "greeting", "EHLO", "HELO", "MAIL", "RCPT", "DATA", "message", "final reply", "QUIT"];
const FAULTS: [&str; 11] = [
    "drop",
    "reset",
    "4yz",
    "5yz",
    "421",
    "silence",
    "no code",
    "wrong code",
    "endless line",
    "endless reply",
    "early",
];
const OFFERS: [&[&str]; 4] = [&[], &["PIPELINING"], &["CHUNKING"], &["PIPELINING", "CHUNKING"]];
/// Octets of a message that has a middle: more than the sockets hold.
const LARGE: usize = 3_000_000;
const MIDDLE: usize = 10_000;
/// How long the server waits for a reply.
const REPLY: Duration = Duration::from_secs(2);
/// Beyond what silence at QUIT may cost one after the other.
const STOP: Duration = Duration::from_secs(20);

/// One next hop.
#[derive(Clone, Copy)]
struct Cell {
    stage: &'static str,
    fault: &'static str,
    offers: &'static [&'static str],
    /// After how many octets the hop closes its first session.
    octets: usize,
}

/// What became of the message to one.
struct Got {
    copies: usize,
    /// Those that came to their end, and of which the hop said neither yes nor no.
    unanswered: usize,
    sessions: usize,
    attempts: usize,
    reports: Vec<String>,
    log: String,
}

/// What has to become of it.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    /// It arrives at one of these attempts, after at most so many copies that nobody said yes to.
    Copy {
        attempts: RangeInclusive<usize>,
        unanswered: usize,
    },
    Report,
}

impl Cell {
    fn due(&self) -> Due {
        let copy = |attempts, unanswered| Due::Copy { attempts, unanswered };
        match (self.stage, self.fault) {
            // Nothing depends on it any more.
            ("QUIT", _) | ("final reply", "early") => copy(1..=1, 0),
            // HELO is tried instead.
            ("EHLO", "5yz") => copy(1..=1, 0),
            (_, "5yz") => Due::Report,
            ("final reply", "4yz" | "421") => copy(2..=2, 0),
            ("final reply", _) => copy(2..=2, 1),
            ("octet", _) => match spoken(self.offers) {
                [before, _] if self.octets < before => copy(2..=2, 0),
                [_, yes] if self.octets < yes => copy(2..=2, 1),
                _ => copy(1..=1, 0),
            },
            // It depends on when the hop listens again.
            ("connection", _) => copy(2..=usize::MAX, 0),
            // What is said too early may come too late to be seen before the end.
            ("message", "early") => copy(1..=2, 0),
            _ => copy(2..=2, 0),
        }
    }

    /// Whether this command is where the fault is.
    fn is_at(&self, line: &str) -> bool {
        let verb = line.split(' ').next().unwrap_or_default();
        match self.stage {
            "greeting" => verb == "CONNECT",
            "message" => verb == "DATA" || verb == "BDAT",
            "final reply" => verb == "." || verb == "BDAT",
            stage => verb == stage,
        }
    }

    fn act(&self, line: &str) -> Act {
        let good = || usual(line, &ehlo(self.offers));
        let act = match self.fault {
            "drop" => Act::Gone(String::new()),
            "reset" => Act::Reset,
            "4yz" => say("450 4.7.1 not now"),
            "5yz" => say(REFUSAL.0),
            "421" => Act::Gone("421 4.3.2 stopping".to_owned()),
            "silence" if self.stage == "message" => Act::Deaf(REPLY * 2),
            "silence" => Act::Silence,
            "no code" => say("hello"),
            "wrong code" if line == "DATA" && self.stage == "DATA" => say("250 2.0.0 ok"),
            "wrong code" => say("354 go on"),
            "endless line" => Act::Flood("250 and so on "),
            "endless reply" => Act::Flood("250-more\r\n"),
            "early" if self.stage == "message" => say("250 2.0.0 taken"),
            "early" => say(good() + "\r\n250 2.0.0 taken"),
            _ => unreachable!(),
        };
        if self.stage != "message" {
            return act;
        }
        let act = match (self.fault, act) {
            // It goes on as if nothing had been.
            ("early", act) => act,
            (_, Act::Say(text)) => Act::Gone(text),
            (_, act) => act,
        };
        Act::Halfway(MIDDLE, Box::new(act))
    }

    fn script(self, session: usize) -> Script {
        let octets = if session == 0 { self.octets } else { usize::MAX };
        let mut is_due = session == 0;
        // A reply too many is seen for sure where those to the envelope come in one piece, as from a host that answers when
        // it has read what there is.
        let in_one_piece = session == 0 && self.fault == "early" && self.offers.contains(&"PIPELINING");
        let answer = move |line: &str| {
            let here = is_due && self.is_at(line);
            is_due &= !here;
            match line.split(' ').next() {
                Some("EHLO") if self.stage == "HELO" => say("502 5.5.1 no such command"),
                Some("MAIL") if in_one_piece => Act::Later(match self.act(line) {
                    Act::Say(text) if here => text,
                    _ => usual(line, ""),
                }),
                _ if here => self.act(line),
                _ => say(usual(line, &ehlo(self.offers))),
            }
        };
        (octets, Box::new(answer))
    }

    fn content(&self) -> String {
        let line = format!("{}\r\n", "x".repeat(70));
        let octets = if self.stage == "message" { LARGE } else { 100 };
        format!("Subject: {} at {}\r\n\r\n{}", self.fault, self.stage, line.repeat(octets.div_ceil(line.len())))
    }

    /// What is wrong with what it got.
    fn complaint(&self, got: &Got) -> Option<String> {
        let is_right = match self.due() {
            Due::Copy { attempts, unanswered } => {
                got.copies == 1
                    && got.reports.is_empty()
                    && attempts.contains(&got.attempts)
                    && got.unanswered <= unanswered
                    && got.log.matches(" delivered ").count() == 1
                    && !got.log.contains(" failed ")
            }
            Due::Report => {
                got.copies == 0
                    && got.attempts == 1
                    && got.unanswered == 0
                    && got.log.matches(" failed ").count() == 1
                    && matches!(got.reports.as_slice(), [report] if is_refusal(report, REFUSAL))
            }
        };
        let Got { copies, unanswered, sessions, attempts, reports, log } = got;
        (!is_right).then(|| {
            format!(
                "{} at {} {:?} {}: {copies} copies, {unanswered} unanswered, {sessions} sessions, {attempts} attempts, {} \
                 reports, {log}{reports:?}",
                self.fault,
                self.stage,
                self.offers,
                self.octets,
                reports.len()
            )
        })
    }
}

/// Hops, and where each is.
struct Table {
    cells: Vec<Cell>,
    street: Street,
    /// Cells whose hop can't be connected to at first.
    late: Vec<Late>,
}

/// A hop that listens only once its message was deferred.
struct Late {
    cell: usize,
    socket: Socket,
    /// Connections that nobody accepts.
    fillers: Vec<TcpStream>,
}

impl Late {
    /// Nothing listens, or whoever does takes no more connections.
    fn new(cell: usize, is_silent: bool) -> Late {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddrV4::new(address(cell), 0).into()).unwrap();
        let mut late = Late { cell, socket, fillers: Vec::new() };
        if is_silent {
            late.socket.listen(0).unwrap();
            late.fillers.push(TcpStream::connect(late.address()).unwrap());
        }
        late
    }

    fn address(&self) -> SocketAddrV4 {
        self.socket.local_addr().unwrap().as_socket_ipv4().unwrap()
    }

    fn open(self, cell: Cell) -> Street {
        let listener = self.socket;
        listener.listen(8).unwrap();
        self.fillers.iter().for_each(|_| drop(listener.accept().unwrap()));
        Street::at(TcpListener::from(listener), move |_, session| cell.script(session + 1))
    }
}

fn address(cell: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(cell).unwrap().to_be_bytes();
    Ipv4Addr::new(127, 9, high, low)
}

fn recipient(cell: usize) -> String {
    format!("x@c{cell}.far.example")
}

impl Table {
    fn new(cells: Vec<Cell>) -> Table {
        let scripts = cells.clone();
        let street = Street::open(move |hop, session| {
            let [.., high, low] = hop.octets();
            scripts[usize::from(u16::from_be_bytes([high, low]))].script(session)
        });
        let is_late =
            |(at, cell): (usize, &Cell)| (cell.stage == "connection").then(|| Late::new(at, cell.fault == "silence"));
        let late = cells.iter().enumerate().filter_map(is_late).collect();
        Table { cells, street, late }
    }

    fn configuration(&self) -> String {
        let hop = |at| {
            let late = self.late.iter().find(|late| late.cell == at).map(Late::address);
            let address = late.unwrap_or(SocketAddrV4::new(address(at), self.street.port));
            format!("\"c{at}.far.example\" = \"{address}\"")
        };
        let hops: Vec<String> = (0..self.cells.len()).map(hop).collect();
        format!(
            "[delivery]\nretry_min = \"1s\"\nretry_max = \"1s\"\nthreads = 64\nconnect_timeout = \"2s\"\n\
             reply_timeout = \"2s\"\n[limits]\nreports = 10000\n[relay]\ndomains = {{ {} }}\n",
            hops.join(", ")
        )
    }

    /// Ann writes to every one, and the server stops once nothing is left to do.
    fn walk(mut self) -> Vec<(Cell, Got)> {
        let mut server = Server::start(&self.configuration());
        let (late, cells) = (std::mem::take(&mut self.late), std::mem::take(&mut self.cells));
        let streets: HashMap<usize, Street> = thread::scope(|scope| {
            for part in 0..4 {
                let (server, cells) = (&server, &cells);
                scope.spawn(move || submit(server, cells, part));
            }
            let open = |late: Late| {
                let (server, cells) = (&server, &cells);
                scope.spawn(move || {
                    server.logged(&[" deferred ", &format!("to={} ", recipient(late.cell)), "4.4.1"]);
                    let at = late.cell;
                    (at, late.open(cells[at]))
                })
            };
            let open: Vec<_> = late.into_iter().map(open).collect();
            open.into_iter().map(|street| street.join().unwrap()).collect()
        });
        eventually("the queue is empty", || files(&server.path("spool/queue")).is_empty());
        let before = Instant::now();
        assert_eq!(server.stop(), Some(0));
        assert!(before.elapsed() < STOP, "it took {:?} to stop", before.elapsed());
        let reports = server.mailbox("ann@example.org");
        let reports: Vec<String> = reports.iter().map(|octets| String::from_utf8_lossy(octets).into_owned()).collect();
        let log = server.log();
        let mut walked = Vec::new();
        for (at, cell) in cells.into_iter().enumerate() {
            let street = streets.get(&at).unwrap_or(&self.street);
            walked.push((cell, got(at, &street.heard(address(at)), &reports, &log)));
        }
        let told: usize = walked.iter().map(|(_, got)| got.reports.len()).sum();
        assert_eq!(told, reports.len(), "each report is about one of them");
        walked
    }
}

/// A fourth of the messages.
fn submit(server: &Server, cells: &[Cell], part: usize) {
    let mut client = server.smtp();
    client.expect("220");
    client.ask("EHLO client.example", "250");
    for at in (0..cells.len()).skip(part).step_by(4) {
        client.ask("MAIL FROM:<ann@example.org>", "250");
        client.ask(&format!("RCPT TO:<{}>", recipient(at)), "250");
        client.ask("DATA", "354");
        client.send(cells[at].content().as_bytes());
        client.ask(".", "250");
    }
}

fn got(cell: usize, heard: &[Heard], reports: &[String], log: &str) -> Got {
    let to = format!(" to={} ", recipient(cell));
    let accepted = log.lines().find(|line| line.contains(&to)).unwrap();
    let id = accepted.split(' ').nth(2).unwrap();
    let log: String = log.lines().filter(|line| line.contains(id)).flat_map(|line| [line, "\n"]).collect();
    let about = format!("Final-Recipient: rfc822; {}\r\n", recipient(cell));
    let ended: usize =
        heard.iter().map(|heard| heard.messages.iter().filter(|message| message.len() > 3).count()).sum();
    let copies = heard.iter().map(|heard| heard.taken).sum();
    let refused: usize = heard.iter().map(|heard| heard.refused).sum();
    Got {
        copies,
        unanswered: ended - copies - refused,
        sessions: heard.len(),
        attempts: log.matches(" deferred ").count() + 1,
        reports: reports.iter().filter(|report| report.contains(&about)).cloned().collect(),
        log,
    }
}

/// Every cell there is.
fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for stage in STAGES {
        for fault in FAULTS {
            // Without a connection there is no reply, and before EHLO there are no extensions.
            let offers = match stage {
                "connection" if !matches!(fault, "drop" | "silence") => &[][..],
                "connection" | "greeting" | "HELO" => &OFFERS[..1],
                "DATA" => &OFFERS[..2],
                _ => &OFFERS,
            };
            cells.extend(offers.iter().map(|offers| Cell { stage, fault, offers, octets: usize::MAX }));
        }
    }
    cells
}

/// How many octets a good hop has said before the end of the message, and after its yes to it.
fn spoken(offers: &[&str]) -> [usize; 2] {
    let ehlo = ehlo(offers);
    let octets = |lines: &[&str]| lines.iter().map(|line| usual(line, &ehlo).len() + 2).sum::<usize>();
    let data = if offers.contains(&"CHUNKING") { 0 } else { octets(&["DATA"]) };
    let before = octets(&["CONNECT", "EHLO", "MAIL", "RCPT"]) + data;
    [before, before + octets(&["."])]
}

/// The table in Markdown: what all hops of one fault and stage got.
fn print(walked: &[(Cell, Got)]) {
    let mut text = format!("\n| fault | {} |\n|{}\n", STAGES.join(" | "), " --- |".repeat(STAGES.len() + 1));
    for fault in FAULTS {
        text.push_str(&format!("| {fault} |"));
        for stage in STAGES {
            let here = walked.iter().filter(|(cell, _)| cell.stage == stage && cell.fault == fault);
            let words: BTreeSet<String> = here.map(|(_, got)| words(got)).collect();
            text.push_str(&format!(
                " {} |",
                if words.is_empty() { "–".to_owned() } else { Vec::from_iter(words).join(" or ") }
            ));
        }
        text.push('\n');
    }
    text.push_str("\n(+1): one more that the hop had whole, and said neither yes nor no to.\n");
    println(&text);
}

#[allow(clippy::print_stdout)]
fn println(text: &str) {
    println!("{text}");
}

fn words(got: &Got) -> String {
    let status = |report: &String| report.split("\r\nStatus: ").nth(1)?.split("\r\n").next().map(str::to_owned);
    let mut words: Vec<String> = got.reports.iter().filter_map(status).map(|status| format!("DSN {status}")).collect();
    if got.copies > 0 {
        let copies = format!("{} cop{}", got.copies, if got.copies == 1 { "y" } else { "ies" });
        let unanswered = if got.unanswered > 0 { format!(" (+{})", got.unanswered) } else { String::new() };
        words.push(copies + &unanswered);
    }
    if got.attempts > 1 {
        words.push(if got.attempts == 2 { "2nd try".to_owned() } else { format!("try {}", got.attempts) });
    }
    words.join(", ")
}

fn check(walked: &[(Cell, Got)]) {
    let complaints: Vec<String> = walked.iter().filter_map(|(cell, got)| cell.complaint(got)).collect();
    assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), walked.len(), complaints.join("\n"));
}

#[test]
fn every_fault_at_every_stage() {
    let walked = Table::new(cells()).walk();
    print(&walked);
    check(&walked);
}

#[test]
fn a_hop_that_closes_after_any_octet() {
    let of = |offers: &'static &'static [&'static str]| {
        let all = spoken(offers)[1] + usual("QUIT", "").len() + 2;
        (0..=all).map(|octets| Cell { stage: "octet", fault: "closes", offers, octets })
    };
    let walked = Table::new(OFFERS.iter().flat_map(of).collect()).walk();
    let twice = walked.iter().filter(|(_, got)| got.unanswered > 0).count();
    let all = walked.len();
    println(&format!("\nClosed after each octet of a session, {all} in all: 1 copy each, of which {twice} (+1).\n"));
    check(&walked);
}

#[test]
fn nobody_is_said_to_have_said_what_this_server_found() {
    let cell = Cell { stage: "connection", fault: "drop", offers: OFFERS[0], octets: usize::MAX };
    let table = Table::new(vec![cell]);
    let patience = "reply_timeout = \"2s\"\nwarn_after = \"1s\"\ngive_up = \"3s\"";
    let server = Server::start(&table.configuration().replace("reply_timeout = \"2s\"", patience));
    submit(&server, &table.cells, 0);
    let found = format!("127.9.0.0 refused the connection: nothing listens on port {}", table.late[0].address().port());
    for (at, action) in ["delayed", "failed"].into_iter().enumerate() {
        eventually(action, || server.mailbox("ann@example.org").len() > at);
        let report = String::from_utf8(server.mailbox("ann@example.org").remove(at)).unwrap();
        let (fields, words) = (report.replace("\r\n\t", " ").replace("\r\n ", " "), report.replace("\r\n> ", " "));
        for part in [format!("Action: {action}\r\n"), format!("Diagnostic-Code: x-postrider; 451 4.4.1 {found}\r\n")] {
            assert!(fields.contains(&part), "{part}\n{report}");
        }
        assert!(words.contains(&format!("this server found:\r\n {found}\r\n")), "{report}");
        assert!(!report.contains(" said") && !report.contains("Remote-MTA"), "{report}");
    }
}
