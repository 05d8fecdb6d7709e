//! The whole server and smtp-sink with one of its fault switches: what the sender gets, and how many copies arrive.
//!
//! Once the message was deferred, the sink with the fault is ended; when all are, good ones take their places.

mod support;

use std::collections::HashMap;

use support::sink::{REFUSAL, Sink, is_refusal};
use support::{Server, eventually, files};

/// What has to become of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    /// The sink with the fault takes it.
    Once,
    /// The good one takes it; the other one has not got it.
    Later,
    /// The good one takes it; the other one may have it too.
    Again,
    /// It comes back, with this reply and status.
    Report(&'static str, &'static str),
}

const REFUSED: Due = Due::Report(REFUSAL.0, REFUSAL.1);

const COMMANDS: [&str; 7] = ["connect", "ehlo", "mail", "rcpt", "data", ".", "quit"];
/// Drops, says 421 and drops, says 4yz, says 5yz, is silent for longer than is waited.
const SWITCHES: [&str; 5] = ["-q", "-Q", "-r", "-f", "-W"];

/// One sink and the message to it.
struct Case {
    name: String,
    due: Due,
    sink: Sink,
}

/// Every switch at every command that it knows, by its name.
fn faults() -> Vec<(String, Vec<String>, Due)> {
    let mut faults = Vec::new();
    for command in COMMANDS {
        for switch in SWITCHES {
            let due = match (command, switch) {
                ("quit", _) | ("ehlo", "-f") => Due::Once,
                // It has no switch for a slow greeting.
                ("connect", "-W") => continue,
                (_, "-f") => REFUSED,
                (".", _) => Due::Again,
                _ => Due::Later,
            };
            let switches = match switch {
                // It gets out of step where it is slow and was asked ahead.
                "-W" => vec!["-p".to_owned(), "-W".to_owned(), format!("{command}:5")],
                _ => vec![switch.to_owned(), command.to_owned()],
            };
            faults.push((format!("{switch} {command}"), switches, due));
        }
    }
    for (switches, due) in [
        (&["-f", "ehlo,helo"][..], REFUSED),
        (&["-r", "helo", "-e"], Due::Later),
        (&["-A", "0"], Due::Report("550 This violates SMTP", "5.0.0")),
        (&["-e"], Due::Once),
        (&["-p"], Due::Once),
    ] {
        faults.push((switches.join(" "), switches.iter().map(|switch| (*switch).to_owned()).collect(), due));
    }
    faults
}

#[test]
fn every_switch_of_smtp_sink_at_every_command() {
    if !support::have("smtp-sink", "every_switch_of_smtp_sink_at_every_command") {
        return;
    }
    let start = |(name, switches, due): (String, Vec<String>, Due)| {
        let mut all = vec!["-b", "450 4.7.1 not now", "-B", REFUSAL.0];
        all.extend(switches.iter().map(String::as_str));
        Case { name, due, sink: Sink::start(&all) }
    };
    let mut cases: Vec<Case> = faults().into_iter().map(start).collect();
    let mut server = Server::start(&configuration(&cases));
    for at in 0..cases.len() {
        submit(&server, at);
    }
    let good = mend(&server, &mut cases);
    eventually("the queue is empty", || files(&server.path("spool/queue")).is_empty());
    assert_eq!(server.stop(), Some(0));
    let reports = server.mailbox("ann@example.org");
    let reports: Vec<String> = reports.iter().map(|octets| String::from_utf8_lossy(octets).into_owned()).collect();
    let became = |(at, case): (usize, &Case)| (case.name.clone(), case.became(at, good.get(&at), &reports));
    let became: Vec<(String, String)> = cases.iter().enumerate().map(became).collect();
    print(&became);
    let refused = cases.iter().filter(|case| matches!(case.due, Due::Report(..))).count();
    assert_eq!(reports.len(), refused, "nothing else came back");
}

/// Ends each sink whose message was deferred, before it is tried again, and then puts good ones in their places.
fn mend(server: &Server, cases: &mut [Case]) -> HashMap<usize, Sink> {
    let deferred: Vec<usize> =
        (0..cases.len()).filter(|at| matches!(cases[*at].due, Due::Later | Due::Again)).collect();
    let mut waiting = deferred.clone();
    eventually("all of them are deferred", || {
        let log = server.log();
        let is_deferred = |at: &mut usize| log.contains(&format!(" deferred to=x@s{at}.far.example "));
        waiting.extract_if(.., is_deferred).for_each(|at| cases[at].sink.stop());
        waiting.is_empty()
    });
    deferred.into_iter().map(|at| (at, Sink::start_at(cases[at].sink.address, &[]))).collect()
}

impl Case {
    /// What became of the message, in words; fails the test if it is not what is due.
    fn became(&self, at: usize, good: Option<&Sink>, reports: &[String]) -> String {
        let line = format!("This is message {at}.");
        let copies = (self.sink.count(&line), good.map_or(0, |good| good.count(&line)));
        let about = format!("Final-Recipient: rfc822; x@s{at}.far.example\r\n");
        let told: Vec<&String> = reports.iter().filter(|report| report.contains(&about)).collect();
        let (is_right, words) = match self.due {
            Due::Once => (copies == (1, 0) && told.is_empty(), "1 copy".to_owned()),
            Due::Later => (copies == (0, 1) && told.is_empty(), "1 copy, later".to_owned()),
            Due::Again => (copies.0 <= 1 && copies.1 == 1 && told.is_empty(), format!("1 copy (+{}), later", copies.0)),
            Due::Report(reply, status) => {
                let is_told = matches!(told.as_slice(), [report] if is_refusal(report, (reply, status)));
                (is_told && copies.1 == 0, format!("DSN {status}"))
            }
        };
        assert!(is_right, "smtp-sink {}: {copies:?} copies, {} reports", self.name, told.len());
        words
    }
}

/// In Markdown: the switches at each command, and the others.
#[allow(clippy::print_stdout)]
fn print(became: &[(String, String)]) {
    let mut left: Vec<&(String, String)> = became.iter().collect();
    let mut text = format!("\n| smtp-sink | {} |\n|{}\n", COMMANDS.join(" | "), " --- |".repeat(COMMANDS.len() + 1));
    for switch in SWITCHES {
        text.push_str(&format!("| `{switch}` |"));
        for command in COMMANDS {
            let name = format!("{switch} {command}");
            let here = left.extract_if(.., |(found, _)| *found == name).map(|(_, words)| words.as_str()).next();
            text.push_str(&format!(" {} |", here.unwrap_or("–")));
        }
        text.push('\n');
    }
    let others: Vec<String> = left.iter().map(|(name, words)| format!("`{name}`: {words}")).collect();
    println!("{text}\n{}.\n(+1): one more that the first sink had whole, and did not say yes to.\n", others.join("; "));
}

fn configuration(cases: &[Case]) -> String {
    let hop = |(at, case): (usize, &Case)| format!("\"s{at}.far.example\" = \"{}\"", case.sink.address);
    let hops: Vec<String> = cases.iter().enumerate().map(hop).collect();
    format!(
        "[delivery]\nretry_min = \"1s\"\nretry_max = \"1s\"\nthreads = 64\nreply_timeout = \"2s\"\n[limits]\n\
         reports = 1000\n[relay]\ndomains = {{ {} }}\n",
        hops.join(", ")
    )
}

fn submit(server: &Server, at: usize) {
    let mut client = server.smtp();
    client.expect("220");
    client.ask("EHLO client.example", "250");
    client.ask("MAIL FROM:<ann@example.org>", "250");
    client.ask(&format!("RCPT TO:<x@s{at}.far.example>"), "250");
    client.ask("DATA", "354");
    client.send(format!("Subject: {at}\r\n\r\nThis is message {at}.\r\n").as_bytes());
    client.ask(".", "250");
}
