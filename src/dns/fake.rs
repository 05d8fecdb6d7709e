//! A DNS server for tests that answers as it is told, right or wrong, and the octets of answers. For tests only.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use domain::base::Name;
use domain::base::iana::{Rcode, Rtype};

/// How a query came.
pub(super) enum Way {
    /// From this address.
    Datagram(SocketAddr),
    Stream,
}

/// Listens on a port of 127.0.0.1 until it is dropped.
pub(super) struct Fake {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    /// The client's port and the id of each query by datagram.
    seen: Arc<Mutex<Vec<(u16, u16)>>>,
}

impl Fake {
    /// Sends the packets that `answer` makes of each query.
    pub fn start(answer: impl Fn(&[u8], Way) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Fake {
        let (socket, listener) = both_on_one_port();
        let address = socket.local_addr().unwrap();
        let fake = Fake { address, over: Arc::default(), seen: Arc::default() };
        let (answer, over, seen) = (Arc::new(answer), fake.over.clone(), fake.seen.clone());
        let of_stream = answer.clone();
        thread::spawn(move || serve_streams(&listener, &*of_stream));
        thread::spawn(move || {
            let mut octets = [0; 4096];
            while !over.load(Ordering::SeqCst) {
                let Ok((count, client)) = socket.recv_from(&mut octets) else { continue };
                seen.lock().unwrap().push((client.port(), u16::from_be_bytes([octets[0], octets[1]])));
                for packet in answer(&octets[..count], Way::Datagram(client)) {
                    // The client may have gone.
                    let _ = socket.send_to(&packet, client);
                }
            }
        });
        fake
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The ports that datagrams came from.
    pub fn ports(&self) -> Vec<u16> {
        self.seen.lock().unwrap().iter().map(|seen| seen.0).collect()
    }

    /// The ids of the datagrams.
    pub fn ids(&self) -> Vec<u16> {
        self.seen.lock().unwrap().iter().map(|seen| seen.1).collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

fn both_on_one_port() -> (UdpSocket, TcpListener) {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()) {
            return (socket, listener);
        }
    }
}

/// Until the end of the tests: an idle listener disturbs none.
fn serve_streams(listener: &TcpListener, answer: impl Fn(&[u8], Way) -> Vec<Vec<u8>>) {
    for mut stream in listener.incoming().flatten() {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut query).unwrap();
        for packet in answer(&query, Way::Stream).iter().filter(|packet| !packet.is_empty()) {
            let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
            // The client may have gone.
            let _ = stream.write_all(&[&length, packet.as_slice()].concat());
        }
    }
}

/// A name in octets.
pub(super) fn wire(name: &str) -> Vec<u8> {
    Name::vec_from_str(name).unwrap().into_octets()
}

/// A record of class IN.
pub(super) fn record(owner: &str, kind: Rtype, ttl: u32, rdata: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rdata.len()).unwrap().to_be_bytes();
    [&wire(owner), &kind.to_int().to_be_bytes()[..], &[0, 1], &ttl.to_be_bytes(), &length, rdata].concat()
}

/// An A record.
pub(super) fn address(owner: &str, ttl: u32, octets: [u8; 4]) -> Vec<u8> {
    record(owner, Rtype::A, ttl, &octets)
}

/// A CNAME record.
pub(super) fn alias(owner: &str, ttl: u32, target: &str) -> Vec<u8> {
    record(owner, Rtype::CNAME, ttl, &wire(target))
}

/// A SOA record.
pub(super) fn start_of_authority(owner: &str, ttl: u32, minimum: u32) -> Vec<u8> {
    let rdata = [&wire("ns.example")[..], &wire("admin.example"), &[0; 16], &minimum.to_be_bytes()].concat();
    record(owner, Rtype::SOA, ttl, &rdata)
}

/// The name that a query asks for.
pub(super) fn asked(query: &[u8]) -> String {
    let message = domain::base::Message::from_octets(query).unwrap();
    message.sole_question().unwrap().qname().to_string()
}

/// An answer to `query` with this code, answer section and authority section.
pub(super) fn answer(query: &[u8], code: Rcode, answers: &[Vec<u8>], authority: &[Vec<u8>]) -> Vec<u8> {
    let question_end = 12 + query[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
    let count = |records: &[Vec<u8>]| u16::try_from(records.len()).unwrap().to_be_bytes();
    let flags = [0x81, 0x80 | code.to_int()];
    let header = [&query[..2], &flags, &[0, 1], &count(answers), &count(authority), &[0, 0]].concat();
    [header, query[12..question_end].to_vec(), answers.concat(), authority.concat()].concat()
}

/// The answer with these records.
pub(super) fn reply(query: &[u8], answers: &[Vec<u8>]) -> Vec<u8> {
    answer(query, Rcode::NOERROR, answers, &[])
}

/// No answer, by this code.
pub(super) fn refused(query: &[u8], code: Rcode) -> Vec<u8> {
    answer(query, code, &[], &[])
}

/// The flag that says: ask by TCP.
pub(super) fn truncated(query: &[u8]) -> Vec<u8> {
    let mut packet = reply(query, &[]);
    packet[2] |= 0x02;
    packet
}

/// Without its last three octets.
pub(super) fn cut(packet: &[u8]) -> Vec<u8> {
    packet[..packet.len() - 3].to_vec()
}
