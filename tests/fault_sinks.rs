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

/// Every switch at every command that it knows.
fn faults() -> Vec<(Vec<String>, Due)> {
    let mut faults = Vec::new();
    for command in ["connect", "ehlo", "mail", "rcpt", "data", ".", "quit"] {
        for switch in ["-q", "-Q", "-r", "-f", "-W"] {
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
            faults.push((switches, due));
        }
    }
    for (switches, due) in [
        (&["-f", "ehlo,helo"][..], REFUSED),
        (&["-r", "helo", "-e"], Due::Later),
        (&["-A", "0"], Due::Report("550 This violates SMTP", "5.0.0")),
        (&["-e"], Due::Once),
        (&["-p"], Due::Once),
    ] {
        faults.push((switches.iter().map(|switch| (*switch).to_owned()).collect(), due));
    }
    faults
}

#[test]
fn every_switch_of_smtp_sink_at_every_command() {
    if !support::have("smtp-sink", "every_switch_of_smtp_sink_at_every_command") {
        return;
    }
    let mut sinks: Vec<(String, Due, Sink)> = Vec::new();
    for (switches, due) in faults() {
        let mut all = vec!["-b", "450 4.7.1 not now", "-B", REFUSAL.0];
        all.extend(switches.iter().map(String::as_str));
        sinks.push((switches.join(" "), due, Sink::start(&all)));
    }
    let mut server = Server::start(&configuration(&sinks));
    for at in 0..sinks.len() {
        submit(&server, at);
    }
    let mut waiting: Vec<usize> =
        (0..sinks.len()).filter(|at| matches!(sinks[*at].1, Due::Later | Due::Again)).collect();
    let deferred = waiting.clone();
    eventually("all of them are deferred", || {
        let log = server.log();
        let is_deferred =
            |at: &mut usize| log.lines().any(|line| line.contains(&format!(" deferred to=x@s{at}.far.example ")));
        // Before it is tried again.
        waiting.extract_if(.., is_deferred).for_each(|at| sinks[at].2.stop());
        waiting.is_empty()
    });
    let good: HashMap<usize, Sink> =
        deferred.into_iter().map(|at| (at, Sink::start_at(sinks[at].2.address, &[]))).collect();
    eventually("the queue is empty", || files(&server.path("spool/queue")).is_empty());
    assert_eq!(server.stop(), Some(0));
    let reports = server.mailbox("ann@example.org");
    let reports: Vec<String> = reports.iter().map(|octets| String::from_utf8_lossy(octets).into_owned()).collect();
    for (at, (switches, due, sink)) in sinks.iter().enumerate() {
        let line = format!("This is message {at}.");
        let copies = (sink.count(&line), good.get(&at).map_or(0, |good| good.count(&line)));
        let about = format!("Final-Recipient: rfc822; x@s{at}.far.example\r\n");
        let told: Vec<&String> = reports.iter().filter(|report| report.contains(&about)).collect();
        let is_right = match due {
            Due::Once => copies == (1, 0) && told.is_empty(),
            Due::Later => copies == (0, 1) && told.is_empty(),
            Due::Again => copies.0 <= 1 && copies.1 == 1 && told.is_empty(),
            Due::Report(reply, status) => matches!(told.as_slice(), [report] if is_refusal(report, (reply, status))),
        };
        assert!(is_right, "smtp-sink {switches}: {copies:?} copies, {} reports", told.len());
    }
    let refused = sinks.iter().filter(|(_, due, _)| matches!(due, Due::Report(..))).count();
    assert_eq!(reports.len(), refused, "nothing else came back");
}

fn configuration(sinks: &[(String, Due, Sink)]) -> String {
    let hop =
        |(at, (_, _, sink)): (usize, &(String, Due, Sink))| format!("\"s{at}.far.example\" = \"{}\"", sink.address);
    let hops: Vec<String> = sinks.iter().enumerate().map(hop).collect();
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
