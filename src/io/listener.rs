//! The accept loop: one thread a listening socket, which only takes connections and hands them on.
//!
//! An error of `accept` never ends the loop: what is short (descriptors, memory) is waited for, without spinning.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
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

/// Accepts until `stopping` says so; it is asked after each wake-up, so whoever stops the server connects once more.
/// `take` must not block. `short` hears of a shortage once each time it begins.
pub fn accept(
    listener: &TcpListener,
    stopping: impl Fn() -> bool,
    take: impl Fn(TcpStream, SocketAddr),
    short: impl Fn(&io::Error),
) {
    let mut in_shortage = false;
    loop {
        let accepted = listener.accept();
        if stopping() {
            return;
        }
        match accepted {
            Ok((stream, peer)) => {
                in_shortage = false;
                take(stream, peer);
            }
            Err(error) if is_shortage(&error) => {
                if !in_shortage {
                    short(&error);
                }
                in_shortage = true;
                thread::sleep(SHORTAGE_PAUSE);
            }
            // The client went away between its SYN and our accept: nothing was lost.
            Err(_) => {}
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
