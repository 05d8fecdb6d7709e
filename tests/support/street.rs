//! Next hops by the hundred, each with an address of its own.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::eventually;
use super::hop::{Act, Heard, listen};

/// What is asked in one session, and after how many octets it closes.
pub type Script = (usize, Box<dyn FnMut(&str) -> Act + Send>);

/// What the hops of a street heard, session by session; `None` while one is under way.
type Book = Arc<Mutex<HashMap<Ipv4Addr, Vec<Option<Heard>>>>>;

/// As many next hops as 127.0.0.0/8 has addresses, all at one port: each has sessions until the tests end.
pub struct Street {
    pub port: u16,
    book: Book,
}

impl Street {
    /// `script` is asked for each session, with the address of the hop and how many sessions it had before.
    pub fn open(script: impl Fn(Ipv4Addr, usize) -> Script + Send + 'static) -> Street {
        Street::at(TcpListener::bind("0.0.0.0:0").unwrap(), script)
    }

    /// As [`Street::open`], with a listener of one's own.
    pub fn at(listener: TcpListener, script: impl Fn(Ipv4Addr, usize) -> Script + Send + 'static) -> Street {
        let street = Street { port: listener.local_addr().unwrap().port(), book: Book::default() };
        let book = Arc::clone(&street.book);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(SocketAddr::V4(address)) = stream.as_ref().unwrap().local_addr() else { continue };
                if address.ip().is_loopback() {
                    visit(stream.unwrap(), *address.ip(), &book, &script);
                }
            }
        });
        street
    }

    /// What one hop heard. Waits until its peers have left.
    pub fn heard(&self, hop: Ipv4Addr) -> Vec<Heard> {
        let is_over = |sessions: &Vec<Option<Heard>>| sessions.iter().all(Option::is_some);
        eventually("the sessions are over", || self.book.lock().unwrap().get(&hop).is_none_or(is_over));
        self.book.lock().unwrap().remove(&hop).into_iter().flatten().flatten().collect()
    }
}

fn visit(stream: TcpStream, hop: Ipv4Addr, book: &Book, script: &impl Fn(Ipv4Addr, usize) -> Script) {
    let at = {
        let mut book = book.lock().unwrap();
        let sessions = book.entry(hop).or_default();
        sessions.push(None);
        sessions.len() - 1
    };
    let (octets, answer) = script(hop, at);
    let book = Arc::clone(book);
    thread::spawn(move || {
        let heard = listen(stream, octets, answer);
        book.lock().unwrap().get_mut(&hop).unwrap()[at] = Some(heard);
    });
}
