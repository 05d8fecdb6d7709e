//! The accept loop: one thread a listening socket, which only takes connections and hands them on.
//!
//! An error of `accept` never ends the loop: what is short (descriptors, memory) is waited for, without spinning, and where
//! it is descriptors, each client hears of it at once.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

/// A shortage lasts a while; trying again sooner would only burn the processor.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// Connections the kernel may hold until we accept them; it cuts the number to its own limit.
const BACKLOG: i32 = 4096;

/// Binds `address`. An IPv6 socket takes IPv6 only, so that one can stand beside the IPv4 one on any system; `[::]`
/// takes both, as people expect.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether this is an address of this host: no other can be bound to.
pub fn is_of_this_host(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// What comes to a listening socket.
#[derive(Debug)]
pub enum Arrival {
    /// A client.
    Client(TcpStream, SocketAddr),
    /// A client for whom there is no descriptor: it is to be told at once, and let go.
    OneTooMany(TcpStream),
    /// Something is short from here on; said once each time.
    Shortage(io::Error),
}

/// Accepts until `stopping` says so; it is asked after each wake-up, so whoever stops the server connects once more.
/// `meet` must not block. One descriptor is kept for clients for whom there is none left.
pub fn accept(listener: &TcpListener, stopping: impl Fn() -> bool, meet: impl Fn(Arrival)) {
    let spare = || listener.try_clone().ok();
    let mut kept = spare();
    let mut in_shortage = false;
    loop {
        let accepted = listener.accept();
        if stopping() {
            return;
        }
        match accepted {
            Ok((stream, peer)) => {
                kept = kept.or_else(spare);
                if kept.is_some() {
                    in_shortage = false;
                    meet(Arrival::Client(stream, peer));
                } else {
                    meet(Arrival::OneTooMany(stream));
                    kept = spare();
                }
            }
            Err(error) if is_shortage(&error) => {
                if !in_shortage {
                    meet(Arrival::Shortage(error));
                }
                in_shortage = true;
                // The next client gets the descriptor that was kept, to hear that there is none.
                if kept.take().is_none() {
                    thread::sleep(SHORTAGE_PAUSE);
                }
            }
            // The client went away between its SYN and our accept: nothing was lost.
            Err(_) => {}
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
