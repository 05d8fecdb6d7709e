//! What servers hold in memory: at start, for a connection that waits, and for one under TLS.
//!
//! Each figure is the growth of all processes of a server through the number of connections. A server that takes fewer than
//! were asked for says so in the row of those held; where a process serves one connection, a thousand are enough to ask for.

use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::Bench;
use crate::figures::Unit;
use crate::rivals::{POSTRIDER, Rival};
use crate::senders::Session;
use crate::support::{Client, tls};

/// How long a server may let a client wait for its greeting.
const PATIENCE: Duration = Duration::from_secs(3);

impl Bench {
    /// Before anything was asked of them.
    pub fn memory_at_start(&mut self) {
        for rival in &self.rivals {
            self.figures.add("memory at start (PSS)", Unit::KiB, rival.name, rival.group.memory());
        }
    }

    /// Connections that have said EHLO and wait.
    pub fn idle(&mut self, most: usize) {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        for rival in self.rivals.iter().filter(|rival| most <= 1000 || rival.name == POSTRIDER) {
            if rival.mail.is_none() {
                continue;
            }
            let before = at_rest(rival);
            let held: Vec<Session> = (0..most).map_while(|_| Session::open(rival.address, PATIENCE)).collect();
            let each = (rival.group.memory() - before) / held.len() as f64;
            self.figures.add(&format!("idle connections held, of {most}"), Unit::Each, rival.name, held.len() as f64);
            self.figures.add(&format!("memory an idle connection, of {most} (PSS)"), Unit::KiB, rival.name, each);
        }
    }

    /// The same after STARTTLS.
    pub fn idle_under_tls(&mut self) {
        // Postfix has no more processes.
        let most = 90;
        for rival in self.rivals.iter().filter(|rival| [POSTRIDER, "Postfix"].contains(&rival.name)) {
            let before = at_rest(rival);
            let open = || {
                let mut session = Session::open(rival.address, PATIENCE)?;
                assert_eq!(session.ask(b"STARTTLS\r\n"), Some(220));
                let mut client = tls::over(session.into_socket());
                client.ask("EHLO client.example", "250");
                Some(client)
            };
            let held: Vec<Client> = (0..most).map_while(|_| open()).collect();
            let each = (rival.group.memory() - before) / held.len() as f64;
            self.figures.add(&format!("memory a session under TLS, of {most} (PSS)"), Unit::KiB, rival.name, each);
        }
    }
}

/// The memory of a server once it has let go what ended before.
fn at_rest(rival: &Rival) -> f64 {
    let mut before = rival.group.memory();
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(200));
        let now = rival.group.memory();
        if (now - before).abs() < 16.0 {
            return now;
        }
        before = now;
    }
    before
}
