//! A next hop that does what real ones do not: a closure says what each command is answered with. [`Hop`] takes one
//! connection, [`Exchanger`] as many as come, [`super::street::Street`] is many hops.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use postrider::io::tls::{self, Layer};
use rustls::ServerConfig;
use socket2::SockRef;

use super::PATIENCE;

/// What the hop does when something came in.
pub enum Act {
    /// Says these lines.
    Say(String),
    /// Says them, and TLS begins.
    Secure(String, Arc<ServerConfig>),
    /// Says them together with what it says next.
    Later(String),
    /// Says them, and nothing more, ever; the connection is closed to the peer, which is still listened to.
    Last(String),
    /// Says them and is gone, with whatever it has not read.
    Gone(String),
    /// Asks for a message, and does this once it has read so many octets of it.
    Halfway(usize, Box<Act>),
    /// Is gone with a reset.
    Reset,
    /// Says nothing and waits until the peer leaves.
    Silence,
    /// Neither says nor reads anything for so long, and is gone.
    Deaf(Duration),
    /// Says this again and again until the peer leaves.
    Flood(&'static str),
}

pub fn say(text: impl Into<String>) -> Act {
    Act::Say(text.into())
}

/// What the peer said.
#[derive(Debug, Default)]
pub struct Heard {
    /// Commands, and `.` for each end of a message.
    pub lines: Vec<String>,
    /// As they were on the wire, whole ones only.
    pub messages: Vec<Vec<u8>>,
    /// How many of them it said yes to, to the last octet.
    pub taken: usize,
    /// How many it said no to.
    pub refused: usize,
    /// How often a command was there before the one before it was answered.
    pub ahead: usize,
}

impl Heard {
    /// How many commands begin so.
    pub fn count(&self, start: &str) -> usize {
        self.lines.iter().filter(|line| line.starts_with(start)).count()
    }
}

pub struct Hop {
    pub address: SocketAddr,
    thread: JoinHandle<Heard>,
}

impl Hop {
    /// `answer` is asked at `CONNECT`, for each command, and at the end of a message: for `.`, or for the BDAT command.
    pub fn start(answer: impl FnMut(&str) -> Act + Send + 'static) -> Hop {
        Hop::cut(usize::MAX, answer)
    }

    /// As [`Hop::start`], and closes once it has said `octets`.
    pub fn cut(octets: usize, answer: impl FnMut(&str) -> Act + Send + 'static) -> Hop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            listen(stream, octets, answer)
        });
        Hop { address, thread }
    }

    /// A hop with good manners that offers these extensions, but for what `except` knows better.
    pub fn polite(offers: &[&str], mut except: impl FnMut(&str) -> Option<Act> + Send + 'static) -> Hop {
        let ehlo = ehlo(offers);
        Hop::start(move |line| except(line).unwrap_or_else(|| say(usual(line, &ehlo))))
    }

    /// What it was told. Waits until the peer has left.
    pub fn heard(self) -> Heard {
        self.thread.join().unwrap()
    }
}

/// A host with good manners that takes every connection, and lets itself be looked at while they last. It stops
/// listening with the value.
pub struct Exchanger {
    pub address: SocketAddr,
    sessions: Arc<Mutex<Vec<Arc<Mutex<Heard>>>>>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Exchanger {
    /// It offers these extensions; `except` knows what it says instead of [`usual`], and begins anew with each connection.
    pub fn start<F>(listener: TcpListener, offers: &[&str], except: F) -> Exchanger
    where
        F: FnMut(&str) -> Option<Act> + Clone + Send + 'static,
    {
        let (address, ehlo) = (listener.local_addr().unwrap(), ehlo(offers));
        listener.set_nonblocking(true).unwrap();
        let (sessions, closing) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let (ours, is_closing) = (Arc::clone(&sessions), Arc::clone(&closing));
        let thread = thread::spawn(move || {
            while !is_closing.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                };
                let heard = Arc::<Mutex<Heard>>::default();
                ours.lock().unwrap().push(Arc::clone(&heard));
                let (mut except, ehlo) = (except.clone(), ehlo.clone());
                thread::spawn(move || {
                    let answer = |line: &str| except(line).unwrap_or_else(|| say(usual(line, &ehlo)));
                    Serving::new(stream, usize::MAX, heard).run(answer);
                });
            }
        });
        Exchanger { address, sessions, closing, thread: Some(thread) }
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.sessions.lock().unwrap().len()
    }

    /// All commands, by connection.
    pub fn lines(&self) -> Vec<String> {
        self.each(|heard| heard.lines.clone())
    }

    /// All messages as text, by connection, without the final dot.
    pub fn messages(&self) -> Vec<String> {
        let text = |message: &Vec<u8>| String::from_utf8_lossy(message).trim_end_matches(".\r\n").to_owned();
        self.each(|heard| heard.messages.iter().map(text).collect())
    }

    /// All messages as they were on the wire, by connection.
    pub fn octets(&self) -> Vec<Vec<u8>> {
        self.each(|heard| heard.messages.clone())
    }

    fn each<T>(&self, part: impl Fn(&Heard) -> Vec<T>) -> Vec<T> {
        self.sessions.lock().unwrap().iter().flat_map(|heard| part(&heard.lock().unwrap())).collect()
    }
}

impl Drop for Exchanger {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// STARTTLS with this certificate, and what is offered under TLS alone; begins anew with each connection.
pub fn secure(config: &Arc<ServerConfig>, offers: &[&str]) -> impl FnMut(&str) -> Option<Act> + Clone + Send + 'static {
    let (config, ehlo) = (Arc::clone(config), ehlo(offers));
    let mut is_secure = false;
    move |line| match line.split(' ').next() {
        Some("STARTTLS") => {
            is_secure = true;
            Some(Act::Secure("220 go ahead".to_owned(), Arc::clone(&config)))
        }
        Some("EHLO") if is_secure => Some(say(ehlo.clone())),
        _ => None,
    }
}

/// The reply to EHLO.
pub fn ehlo(offers: &[&str]) -> String {
    let lines: String = offers.iter().map(|offer| format!("250-{offer}\r\n")).collect();
    format!("250-hop.example\r\n{lines}250 HELP")
}

/// What a hop with good manners says.
pub fn usual(line: &str, ehlo: &str) -> String {
    match line.split(' ').next().unwrap() {
        "CONNECT" => "220 hop.example ESMTP".to_owned(),
        "EHLO" => ehlo.to_owned(),
        "DATA" => "354 go on".to_owned(),
        "QUIT" => "221 2.0.0 bye".to_owned(),
        "." | "BDAT" => "250 2.0.0 taken".to_owned(),
        _ => "250 2.1.0 ok".to_owned(),
    }
}

/// One session: closes once it has said `octets`.
pub fn listen(stream: TcpStream, octets: usize, answer: impl FnMut(&str) -> Act) -> Heard {
    let heard = Arc::default();
    Serving::new(stream, octets, Arc::clone(&heard)).run(answer);
    std::mem::take(&mut *heard.lock().unwrap())
}

/// The connection, in clear or under TLS.
struct Wire {
    socket: TcpStream,
    tls: Option<Layer>,
}

impl Read for Wire {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(layer) => layer.read(&mut self.socket, octets),
            None => self.socket.read(octets),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(layer) => layer.write(&mut self.socket, octets),
            None => self.socket.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Serving {
    input: BufReader<Wire>,
    left: usize,
    held: String,
    /// The whole message is there, and not answered.
    ended: bool,
    heard: Arc<Mutex<Heard>>,
}

impl Serving {
    fn new(stream: TcpStream, left: usize, heard: Arc<Mutex<Heard>>) -> Serving {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let input = BufReader::new(Wire { socket: stream, tls: None });
        Serving { input, left, held: String::new(), ended: false, heard }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap()
    }

    fn run(&mut self, mut answer: impl FnMut(&str) -> Act) {
        let mut line = "CONNECT".to_owned();
        loop {
            let act = answer(&line);
            let Some(wants_message) = self.turn(&line, act) else { return };
            let next = if wants_message { self.message() } else { self.command() };
            let Some(next) = next else { return };
            self.heard().lines.push(next.clone());
            line = next;
        }
    }

    /// Answers one command. Says whether a message follows, or nothing if the session is over.
    fn turn(&mut self, line: &str, act: Act) -> Option<bool> {
        let chunk =
            line.strip_prefix("BDAT ").map(|size| size.strip_suffix(" LAST").unwrap().parse::<usize>().unwrap());
        let wants_message = match &act {
            Act::Say(text) => line == "DATA" && text.starts_with("354"),
            Act::Halfway(..) => chunk.is_none(),
            _ => false,
        };
        let act = match (act, chunk) {
            (Act::Halfway(octets, act), None) => {
                self.say("354 go on");
                self.read(octets)?;
                *act
            }
            (Act::Halfway(octets, act), Some(size)) => {
                self.read(octets)?;
                if !self.act(*act) {
                    return None;
                }
                let rest = self.read(size - octets)?;
                self.note(rest);
                Act::Say("250 2.0.0 taken".to_owned())
            }
            (act, Some(size)) => {
                let content = self.read(size)?;
                self.note(content);
                act
            }
            (act, None) => act,
        };
        self.act(act).then_some(wants_message)
    }

    fn read(&mut self, octets: usize) -> Option<Vec<u8>> {
        let mut content = vec![0; octets];
        self.input.read_exact(&mut content).ok().map(|()| content)
    }

    /// A message came to its end. One for nobody has but its dot.
    fn note(&mut self, content: Vec<u8>) {
        self.ended = content.len() > 3;
        self.heard().messages.push(content);
    }

    fn act(&mut self, act: Act) -> bool {
        match act {
            Act::Say(text) => self.say(&text),
            Act::Secure(text, config) => {
                self.say(&text);
                assert!(self.input.buffer().is_empty(), "it spoke before TLS began");
                let wire = self.input.get_mut();
                let Ok((layer, _)) = tls::accept(&config, &mut wire.socket) else { return false };
                wire.tls = Some(layer);
            }
            Act::Later(text) => self.held.push_str(&format!("{text}\r\n")),
            Act::Last(text) => {
                self.say(&text);
                self.close();
            }
            Act::Gone(text) => {
                self.say(&text);
                return false;
            }
            Act::Halfway(..) => panic!("there is no message now"),
            Act::Reset => {
                SockRef::from(&self.input.get_ref().socket).set_linger(Some(Duration::ZERO)).unwrap();
                return false;
            }
            Act::Deaf(time) => {
                thread::sleep(time);
                return false;
            }
            Act::Silence => {
                let _ = self.input.read_to_end(&mut Vec::new());
                return false;
            }
            Act::Flood(text) => {
                while self.input.get_mut().write_all(text.as_bytes()).is_ok() {}
                return false;
            }
        }
        true
    }

    fn say(&mut self, text: &str) {
        let end = if text.is_empty() { "" } else { "\r\n" };
        let octets = format!("{}{text}{end}", std::mem::take(&mut self.held)).into_bytes();
        let kept = octets.len().min(self.left);
        if std::mem::take(&mut self.ended) && kept == octets.len() {
            self.heard().taken += usize::from(text.starts_with('2'));
            self.heard().refused += usize::from(text.starts_with(['4', '5']));
        }
        let _ = self.input.get_mut().write_all(&octets[..kept]);
        self.left -= kept;
        if self.left == 0 {
            self.close();
        }
    }

    fn close(&mut self) {
        self.left = 0;
        let _ = self.input.get_mut().socket.shutdown(Shutdown::Write);
    }

    fn command(&mut self) -> Option<String> {
        let is_ahead = !self.input.buffer().is_empty();
        self.heard().ahead += usize::from(is_ahead);
        let line = self.line()?;
        let line = String::from_utf8(line).unwrap();
        let line = line.strip_suffix("\r\n").expect("a command ends with CR LF").to_owned();
        Some(line)
    }

    fn message(&mut self) -> Option<String> {
        let mut content = Vec::new();
        loop {
            let line = self.line()?;
            content.extend_from_slice(&line);
            if line == b".\r\n" {
                self.note(content);
                return Some(".".to_owned());
            }
        }
    }

    /// A whole line, or none.
    fn line(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        self.input.read_until(b'\n', &mut line).ok()?;
        line.ends_with(b"\n").then_some(line)
    }
}
