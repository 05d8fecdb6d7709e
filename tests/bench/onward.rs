//! Where relayed mail goes: smtp-sink, which takes all and counts it, and a hop of our own that defers each third recipient,
//! as smtp-sink can't.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::rivals::{Sink, free_address};

/// The domain whose mail goes to smtp-sink.
pub const TAKING: &str = "taking.example";
/// The domain of which a third of the recipients can't take mail now.
pub const DEFERRING: &str = "deferring.example";

/// The two next hops.
pub struct Onward {
    taking: Hop,
    deferring: Hop,
    _sink: Option<Sink>,
}

struct Hop {
    address: SocketAddr,
    /// How many messages came, or recipients were asked for.
    count: Arc<AtomicUsize>,
}

impl Onward {
    pub fn start() -> Onward {
        let count = Arc::new(AtomicUsize::new(0));
        let taking = Hop { address: free_address(), count: count.clone() };
        let sink = Sink::start(taking.address, &["-c"], Stdio::piped()).map(|mut sink| {
            let counters = sink.0.stdout.take().unwrap();
            thread::spawn(move || follow(BufReader::new(counters), &count));
            sink
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let deferring = Hop { address: listener.local_addr().unwrap(), count: Arc::default() };
        let count = deferring.count.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let count = count.clone();
                thread::spawn(move || answer(stream, &count));
            }
        });
        Onward { taking, deferring, _sink: sink }
    }

    /// Which domain's mail goes where.
    pub fn domains(&self) -> [(&'static str, SocketAddr); 2] {
        [(TAKING, self.taking.address), (DEFERRING, self.deferring.address)]
    }

    /// How many messages were tried there.
    pub fn tried(&self, domain: &str) -> usize {
        let hop = if domain == TAKING { &self.taking } else { &self.deferring };
        hop.count.load(Ordering::Relaxed)
    }
}

/// Reads the running counters of smtp-sink: `sess=2 quit=1 mesg=3`, a CR after each.
fn follow(mut counters: impl BufRead, count: &AtomicUsize) {
    let mut line = Vec::new();
    while counters.read_until(b'\r', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        let messages = text.split("mesg=").nth(1).and_then(|rest| rest.trim().parse().ok());
        messages.into_iter().for_each(|messages| count.store(messages, Ordering::Relaxed));
        line.clear();
    }
}

/// One session of the hop that defers.
fn answer(stream: TcpStream, count: &AtomicUsize) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    let (mut replies, mut line, mut accepted) = (b"220 deferring.example\r\n".to_vec(), Vec::new(), false);
    loop {
        if reader.buffer().is_empty() {
            reader.get_mut().write_all(&replies).ok()?;
            replies.clear();
        }
        line.clear();
        if reader.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        let verb = line.get(..4)?.to_ascii_uppercase();
        let reply = match &verb[..] {
            b"EHLO" => "250-deferring.example\r\n250 PIPELINING\r\n",
            b"RCPT" => {
                let is_third = count.fetch_add(1, Ordering::Relaxed) % 3 == 2;
                accepted |= !is_third;
                if is_third { "450 4.2.1 not now\r\n" } else { "250 2.1.5 ok\r\n" }
            }
            b"DATA" if accepted => {
                replies.extend_from_slice(b"354 go on\r\n");
                reader.get_mut().write_all(&replies).ok()?;
                replies.clear();
                swallow(&mut reader)?;
                accepted = false;
                "250 2.0.0 ok\r\n"
            }
            b"DATA" => "554 5.5.1 no recipients\r\n",
            b"RSET" | b"MAIL" => {
                accepted = false;
                "250 2.0.0 ok\r\n"
            }
            b"QUIT" => {
                reader.get_mut().write_all(b"221 2.0.0 bye\r\n").ok()?;
                return None;
            }
            _ => "250 2.0.0 ok\r\n",
        };
        replies.extend_from_slice(reply.as_bytes());
    }
}

/// Reads a message up to its dot.
fn swallow(reader: &mut impl BufRead) -> Option<()> {
    let mut line = Vec::new();
    while line != b".\r\n" {
        line.clear();
        if reader.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
    }
    Some(())
}
