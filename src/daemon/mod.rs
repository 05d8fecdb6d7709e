//! The server as one process: it makes every thread and every channel, reloads on SIGHUP, and stops in order on SIGTERM.
//!
//! | thread | how many | ends |
//! | --- | --- | --- |
//! | `smtp ADDRESS`, `pop3s ADDRESS` and so on | one a listening socket | first: no new connections |
//! | the peer's address | one a connection; it serves another that comes soon after | idle ones at once with 421, others within the drain time |
//! | `delivery N` | `delivery.threads` | after the attempt under way |
//! | `writer` | one | after the last connection |
//! | `watch`, `pickup` | one each | with the process |
//! | `sessions` | one: ends sessions with other hosts that nobody uses | after the last delivery, and then all of them |
//! | `names N` | two | with the process |
//! | `keeper` | one: hears the second process, which is started here too | with the process |
//! | main | waits for signals | last |
//!
//! What keeps it from starting is a [`StartError`] with what to do. Once it runs, nothing but a signal ends it.

mod capacity;
mod cgroup;
mod idle;
pub mod keeper;
mod ports;
mod reload;
mod sandbox;
mod threads;

use std::fmt;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::auth::Gate;
use crate::config::Config;
use crate::delivery::Deliverer;
use crate::dns::{self, Resolver};
use crate::io::account;
use crate::io::keeper::Keeper;
use crate::io::listener::{self, Arrival};
use crate::io::secrets::Secrets;
use crate::io::stream::{Connections, Full, Pace, Place};
use crate::limits;
use crate::mail::reply::{self, Reply};
use crate::maillog;
use crate::smtpd::room::EnvelopeRoom;
use crate::spool::{Pickup, Spool, Watch, Writer};
use crate::tls::Certificates;
use crate::{pop3, smtpd};
use capacity::Machine;
use ports::{Ports, Purpose};
use reload::{Loaded, Reloader};

/// What keeps the server from starting.
#[derive(Debug)]
pub enum StartError {
    /// Configuration, users or aliases are wrong; the text says where.
    Wrong(String),
    /// Something of this machine can't be had; the text says what, and what to do.
    Unavailable(String),
}

impl StartError {
    /// As sysexits(3) has it.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Wrong(_) => 78,
            StartError::Unavailable(_) => 71,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Wrong(what) | StartError::Unavailable(what) => out.write_str(what),
        }
    }
}

impl std::error::Error for StartError {}

fn unavailable(doing: impl fmt::Display, error: &io::Error, mend: &str) -> StartError {
    StartError::Unavailable(format!("cannot {doing}: {error}{}{mend}", if mend.is_empty() { "" } else { "; " }))
}

/// Runs the server until SIGTERM or SIGINT.
pub fn serve(config_path: &Path) -> Result<(), StartError> {
    let loaded = reload::load(config_path).map_err(StartError::Wrong)?;
    let config = loaded.site.config.clone();
    let signals = Signals::new([SIGHUP, SIGTERM, SIGINT]).map_err(|error| unavailable("catch signals", &error, ""))?;
    let ports = Ports::bind(&config)?;
    let second = keeper::start(&config)?;
    if let Some(account) = &config.run_as {
        account::become_account(account).map_err(|error| StartError::Unavailable(error.to_string()))?;
    }
    maillog::start(&config.log).map_err(|error| {
        let mend = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "set run_as to the account that its folder belongs to, or give it to this one"
            }
            _ => "make its folder, or set log in the configuration",
        };
        unavailable(format!("open the log {}", config.log), &error, mend)
    })?;
    threads::log_panics();
    let server = Server::start(loaded, config_path, ports, second)?;
    server.run(signals);
    Ok(())
}

/// The running server.
struct Server {
    spool: Arc<Spool>,
    reloader: Arc<Reloader>,
    smtp: Arc<Connections>,
    pop3: Arc<Connections>,
    addresses: Vec<SocketAddr>,
    stopping: Arc<AtomicBool>,
    deliverer: Arc<Deliverer>,
    deliveries: Vec<JoinHandle<()>>,
    hop_sessions: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Server {
    fn start(loaded: Loaded, config_path: &Path, ports: Ports, second: keeper::Started) -> Result<Server, StartError> {
        let mut config = loaded.site.config.clone();
        let machine = Machine::read();
        config.delivery.threads = machine.delivery_threads(config.delivery.threads);
        let (spool, writer) = open_spool(&config)?;
        let (smtp, pop3) = machine.room(&config.limits);
        sandbox::enter(config_path, &loaded.site)?;
        let keeper = second.hear()?;
        let watch = Watch::new(&spool).map_err(|error| unavailable("watch the spool", &error, ""))?;
        let accounts = Arc::new({
            let keeper = keeper.clone();
            move |number| keeper.account(number)
        });
        let pickup = Pickup::new(&spool, accounts).map_err(|error| unavailable("watch the drop folder", &error, ""))?;
        let (spool, method) = (Arc::new(spool), writer.method());
        let read = Arc::new({
            let keeper = keeper.clone();
            move |path: &Path| keeper.read(path)
        });
        let resolver = Arc::new(Resolver::reading_by(&config.dns, read));
        let certificates = Arc::new(load_certificates(&config, keeper.clone())?);
        let reloader = Arc::new(Reloader::new(config_path, loaded, resolver.clone(), certificates.clone()));
        let site = reloader.site();
        let deliverer = Arc::new(Deliverer::new(&config.delivery, resolver, keeper));
        let (names, name_thread) = dns::reverse_names();
        let gate = Arc::new(Gate::new(site.clone(), machine.login_memory()));
        let smtp_server = Arc::new(smtpd::connection::Server {
            spool: spool.clone(),
            site: site.clone(),
            names,
            pace: Pace::CLIENT,
            gate: gate.clone(),
            certificates: certificates.clone(),
            envelopes: EnvelopeRoom::new(machine.envelope_memory()),
        });
        let pop3_server =
            Arc::new(pop3::connection::Server::new(site.clone(), gate, certificates.clone(), Pace::CLIENT));
        maillog::started(&config.hostname, &config.spool, method.name(), spool.queued(), config.delivery.threads);

        let writer = threads::writer(spool.clone(), writer)?;
        let delivery = |number| {
            let (spool, site, deliverer) = (spool.clone(), site.clone(), deliverer.clone());
            threads::restarting(&format!("delivery {number}"), move || deliverer.run(&spool, &site))
        };
        let deliveries = (1..=config.delivery.threads).map(delivery).collect::<Result<_, _>>()?;
        threads::restarting("watch", {
            let (spool, reloader) = (spool.clone(), reloader.clone());
            let each_second = move || {
                reloader.reload_changed_tables();
                certificates.look();
            };
            move || watch.run(&spool, &each_second)
        })?;
        threads::restarting("pickup", {
            let (spool, site) = (spool.clone(), site.clone());
            move || pickup.run(&spool, &site)
        })?;
        let hop_sessions = threads::restarting("sessions", {
            let (spool, site, deliverer) = (spool.clone(), site.clone(), deliverer.clone());
            move || deliverer.tend(&spool, &site)
        })?;
        for number in 1..=2 {
            let thread = name_thread.clone();
            threads::restarting(&format!("names {number}"), move || thread.run())?;
        }
        let stopping = Arc::new(AtomicBool::new(false));
        let behind = Behind { smtp: (smtp_server, smtp.clone()), pop3: (pop3_server, pop3.clone()), stopping };
        let addresses = behind.open_all(ports)?;
        let stopping = behind.stopping;
        Ok(Server { spool, reloader, smtp, pop3, addresses, stopping, deliverer, deliveries, hop_sessions, writer })
    }

    fn run(self, mut signals: Signals) {
        maillog::flush();
        tell_starter(&[NotifyState::Ready]);
        for signal in signals.forever() {
            if signal == SIGHUP {
                let now = NotifyState::monotonic_usec_now().ok();
                tell_starter(&[NotifyState::Reloading].into_iter().chain(now).collect::<Vec<_>>());
                self.reloader.reload();
                tell_starter(&[NotifyState::Ready]);
            } else {
                break;
            }
        }
        self.stop();
    }

    /// P7: no new connections, 421 to those that wait, what runs may finish within a bound.
    fn stop(self) {
        maillog::stopping();
        tell_starter(&[NotifyState::Stopping]);
        let deadline = Instant::now() + limits::DRAIN;
        self.stopping.store(true, Ordering::SeqCst);
        for address in &self.addresses {
            wake(*address);
        }
        self.smtp.close_idle();
        self.pop3.close_idle();
        self.spool.stop();
        let in_sessions = || self.smtp.count() + self.pop3.count();
        let in_deliveries = || self.deliveries.iter().filter(|thread| !thread.is_finished()).count();
        wait_until(deadline, || in_sessions() + in_deliveries() == 0);
        self.smtp.close_all();
        self.pop3.close_all();
        self.deliverer.end();
        self.hop_sessions.thread().unpark();
        wait_until(Instant::now() + LAST_WORDS, || in_sessions() == 0 && self.hop_sessions.is_finished());
        let unfinished = in_deliveries();
        self.spool.write_unwritten();
        self.spool.stop_writer();
        wait_until(Instant::now() + limits::DRAIN, || self.writer.is_finished());
        self.spool.sync_removals();
        maillog::stopped(unfinished, threads::panics());
    }
}

/// Says how we are to systemd, or whoever else wants to know (sd_notify(3)). One that does not listen is not our trouble.
fn tell_starter(states: &[NotifyState]) {
    let _ = sd_notify::notify(states);
}

fn open_spool(config: &Config) -> Result<(Spool, Writer), StartError> {
    Spool::open(&config.spool).map_err(|error| {
        let mend = match error.kind() {
            io::ErrorKind::WouldBlock => "another postrider has this spool open; stop it first",
            io::ErrorKind::PermissionDenied => "the folder must belong to the account that runs postrider",
            _ => "",
        };
        unavailable(format!("open the spool {}", config.spool.display()), &error, mend)
    })
}

fn load_certificates(config: &Config, keeper: Arc<Keeper>) -> Result<Certificates, StartError> {
    let loaded = Certificates::load(&config.tls, config.hostname.as_str(), &config.spool, Box::new(keeper));
    loaded.map_err(|error| StartError::Wrong(error.to_string()))
}

/// What stands behind the sockets, and the connections that each protocol has open.
struct Behind {
    smtp: (Arc<smtpd::connection::Server>, Arc<Connections>),
    pop3: (Arc<pop3::connection::Server>, Arc<Connections>),
    stopping: Arc<AtomicBool>,
}

impl Behind {
    fn open_all(&self, ports: Ports) -> Result<Vec<SocketAddr>, StartError> {
        ports.0.into_iter().map(|(purpose, listener)| self.open(purpose, listener)).collect()
    }

    fn open(&self, purpose: Purpose, listener: TcpListener) -> Result<SocketAddr, StartError> {
        let (protocol, refuse, stopping) = (purpose.name(), port_refusal(purpose), self.stopping.clone());
        match purpose {
            Purpose::Smtp(port) => {
                let (server, open) = self.smtp.clone();
                let door = Door { protocol, open, refuse, stopping };
                door.open(listener, move |place| smtpd::connection::serve(place, &server, port))
            }
            Purpose::Pop3(port) => {
                let (server, open) = self.pop3.clone();
                let door = Door { protocol, open, refuse, stopping };
                door.open(listener, move |place| pop3::connection::serve(place, &server, port))
            }
        }
    }
}

/// How long sessions that were cut off, and those with other hosts, have to say so.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn wait_until(deadline: Instant, done: impl Fn() -> bool) {
    while !done() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets an accept loop see that it is to stop.
fn wake(address: SocketAddr) {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    // One that does not answer is ended with the process.
    let _ = TcpStream::connect_timeout(&address, LAST_WORDS);
}

/// One listening socket and what stands behind it.
struct Door {
    protocol: &'static str,
    open: Arc<Connections>,
    refuse: fn(Full) -> (Vec<u8>, &'static str),
    stopping: Arc<AtomicBool>,
}

impl Door {
    /// Starts the accept loop; `serve` runs in a thread of its own for each connection. Returns the address.
    fn open(
        self,
        listener: TcpListener,
        serve: impl Fn(Place) + Send + Sync + 'static,
    ) -> Result<SocketAddr, StartError> {
        let address = listener.local_addr().map_err(|error| unavailable("name a listening socket", &error, ""))?;
        maillog::listening(self.protocol, address, self.open.most());
        let serve = Arc::new(serve);
        threads::restarting(&format!("{} {address}", self.protocol), move || {
            listener::accept(&listener, || self.stopping.load(Ordering::SeqCst), |arrival| self.meet(arrival, &serve));
        })?;
        Ok(address)
    }

    fn meet(&self, arrival: Arrival, serve: &Arc<impl Fn(Place) + Send + Sync + 'static>) {
        match arrival {
            Arrival::Client(stream, peer) => self.take(stream, peer, serve),
            Arrival::OneTooMany(stream) => say(&stream, &(self.refuse)(Full::All).0),
            Arrival::Shortage(error) => maillog::shortage("accept", &error),
        }
    }

    fn take(&self, stream: TcpStream, peer: SocketAddr, serve: &Arc<impl Fn(Place) + Send + Sync + 'static>) {
        let place = match self.open.enter(stream, peer) {
            Ok(place) => place,
            Err((full, stream)) => {
                let (words, why) = (self.refuse)(full);
                maillog::turned_away(self.protocol, peer.ip().to_canonical(), why, self.open.count());
                return say(&stream, &words);
            }
        };
        let serve = serve.clone();
        if let Err((error, place)) = threads::connection(peer, place, move |place| serve(place)) {
            maillog::shortage("start a thread for a connection", &error);
            let (words, _) = (self.refuse)(Full::All);
            place.inspect_stream(|stream| say(stream, &words));
        }
    }
}

/// The accept loop waits for nobody: what does not fit into the socket's buffer is not said.
fn say(stream: &TcpStream, words: &[u8]) {
    let _ = stream.set_nonblocking(true).and_then(|()| (&*stream).write_all(words));
}

fn wire(reply: &Reply) -> Vec<u8> {
    let mut words = Vec::new();
    reply.write_to(&mut words);
    words
}

/// What a client is told for whom there is no place.
fn port_refusal(purpose: Purpose) -> fn(Full) -> (Vec<u8>, &'static str) {
    match purpose {
        Purpose::Smtp(smtpd::connection::Port::Submissions) | Purpose::Pop3(pop3::connection::Port::Pop3s) => {
            // Words in clear are none there, and a handshake is more than it may cost.
            |full| (Vec::new(), smtp_refusal(full).1)
        }
        Purpose::Smtp(_) => smtp_refusal,
        Purpose::Pop3(_) => pop3_refusal,
    }
}

fn smtp_refusal(full: Full) -> (Vec<u8>, &'static str) {
    match full {
        Full::All => (wire(&reply::too_many_connections()), "too many connections"),
        Full::Client => (wire(&reply::too_many_from_client()), "too many connections from this address"),
    }
}

fn pop3_refusal(full: Full) -> (Vec<u8>, &'static str) {
    let words = match full {
        Full::All => pop3::connection::TOO_MANY,
        Full::Client => pop3::connection::TOO_MANY_FROM_CLIENT,
    };
    (words.to_vec(), smtp_refusal(full).1)
}
