//! One try with one server: a datagram, and a connection where the answer is too large for one (RFC 7766).
//!
//! Each query has a socket, a port and an id of its own, drawn by the kernel, so that whoever wants to forge an answer
//! must guess them (RFC 5452). The socket is connected: the kernel drops what comes from elsewhere. A datagram that does
//! not answer the query, or can't be read, is ignored, and the wait goes on. Nothing waits past the deadline; every fault
//! is an [`io::Error`] with words for a person.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::answer::{Answer, Meaning, Query, Question};
use crate::limits;

/// Asks one server, and waits until `deadline`.
pub(super) fn ask(server: SocketAddr, question: &Question, deadline: Instant) -> io::Result<Answer> {
    let (mut edns, mut by_stream) = (true, false);
    loop {
        let id = getrandom::u32().map_err(io::Error::other)?.to_le_bytes();
        let query = Query::new(question, u16::from_le_bytes([id[0], id[1]]), edns);
        let over = if by_stream { by_tcp } else { by_udp };
        match over(server, &query, deadline).map_err(|error| in_words(&error))? {
            Meaning::Answer(answer) => return Ok(answer),
            Meaning::Fault(words) | Meaning::Unreadable(words) => return Err(io::Error::other(words)),
            // Each of these happens once.
            Meaning::NoEdns if edns => edns = false,
            Meaning::Truncated if !by_stream => by_stream = true,
            _ => return Err(io::Error::other("it sent something else than an answer by TCP")),
        }
    }
}

fn by_udp(server: SocketAddr, query: &Query, deadline: Instant) -> io::Result<Meaning> {
    let from = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(from)?;
    socket.connect(server)?;
    socket.send(&query.packet())?;
    let mut packet = [0; limits::DNS_DATAGRAM_READ];
    let mut unreadable = None;
    loop {
        let received = left(deadline).and_then(|left| {
            socket.set_read_timeout(Some(left))?;
            socket.recv(&mut packet)
        });
        match received {
            Ok(count) => match query.read(&packet[..count]) {
                Meaning::NotOurs => {}
                // Its whole fellow may be on the way.
                meaning @ Meaning::Unreadable(_) => unreadable = Some(meaning),
                meaning => return Ok(meaning),
            },
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return unreadable.ok_or(error),
        }
    }
}

fn by_tcp(server: SocketAddr, query: &Query, deadline: Instant) -> io::Result<Meaning> {
    let mut stream = TcpStream::connect_timeout(&server, left(deadline)?)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let packet = query.packet();
    let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), packet.as_slice()].concat())?;
    let mut length = [0; 2];
    read_exact(&mut stream, &mut length, deadline)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    read_exact(&mut stream, &mut answer, deadline)?;
    Ok(query.read(&answer))
}

/// As [`Read::read_exact`], but a server that sends an octet now and then does not move the deadline.
fn read_exact(stream: &mut TcpStream, octets: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut filled = 0;
    while filled < octets.len() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut octets[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn in_words(error: &io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => io::Error::new(ErrorKind::TimedOut, "it does not answer"),
        ErrorKind::ConnectionRefused => io::Error::new(error.kind(), "nobody listens there"),
        ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it hung up before its answer was whole"),
        kind => io::Error::new(kind, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use domain::base::iana::{Rcode, Rtype};

    use super::*;
    use crate::dns::answer::Told;
    use crate::dns::fake::{Fake, Way, address, cut, refused, reply, truncated};
    use crate::dns::record::Record;

    const LONG: Duration = Duration::from_secs(20);
    const CUT: &str = "its answer is cut or wrong: unexpected end of input";
    const SHORT: Duration = Duration::from_millis(500);

    fn try_once(server: &Fake, wait: Duration) -> io::Result<Told> {
        let question = Question::new(&"mail.example".parse().unwrap(), Rtype::A).unwrap();
        ask(server.address(), &question, Instant::now() + wait).map(|answer| answer.told)
    }

    fn words(server: &Fake, wait: Duration) -> String {
        try_once(server, wait).unwrap_err().to_string()
    }

    fn good(query: &[u8]) -> Vec<u8> {
        reply(query, &[address("mail.example", 60, [192, 0, 2, 1])])
    }

    fn good_address() -> Told {
        Told::Records(vec![Record::Address("192.0.2.1".parse().unwrap())])
    }

    #[test]
    fn what_is_forged_or_cut_is_ignored_and_the_answer_still_taken() {
        let server = Fake::start(|query, _| {
            let mut other_id = reply(query, &[address("mail.example", 60, [6, 6, 6, 6])]);
            other_id[1] ^= 1;
            let mut other_name = reply(query, &[address("mail.example", 60, [6, 6, 6, 6])]);
            other_name[13] ^= 1;
            let mut a_query = reply(query, &[address("mail.example", 60, [6, 6, 6, 6])]);
            a_query[2] &= 0x7f;
            let cut_in_question = good(query)[..20].to_vec();
            vec![Vec::new(), vec![0; 5], other_id, other_name, a_query, cut_in_question, cut(&good(query)), good(query)]
        });
        assert_eq!(try_once(&server, LONG).unwrap(), good_address());
    }

    #[test]
    fn an_answer_that_stays_cut_is_a_fault() {
        let server = Fake::start(|query, _| vec![cut(&good(query))]);
        assert_eq!(words(&server, SHORT), CUT);
    }

    #[test]
    fn an_answer_from_another_port_is_never_seen() {
        let server = Fake::start(|query, way| {
            if let Way::Datagram(client) = way {
                let forger = UdpSocket::bind("127.0.0.1:0").unwrap();
                forger.send_to(&reply(query, &[address("mail.example", 60, [6, 6, 6, 6])]), client).unwrap();
            }
            Vec::new()
        });
        assert_eq!(words(&server, SHORT), "it does not answer");
    }

    #[test]
    fn each_query_has_a_port_and_an_id_of_its_own() {
        let server = Fake::start(|query, _| vec![good(query)]);
        (0..8).for_each(|_| assert_eq!(try_once(&server, LONG).unwrap(), good_address()));
        let (mut ports, mut ids) = (server.ports(), server.ids());
        for all in [&mut ports, &mut ids] {
            all.sort_unstable();
            all.dedup();
            assert!(all.len() >= 7, "{all:?}");
        }
    }

    #[test]
    fn a_server_is_asked_by_ipv6_too() {
        // Where this machine has it.
        let Ok(socket) = UdpSocket::bind("[::1]:0") else { return };
        let server = socket.local_addr().unwrap();
        let answering = std::thread::spawn(move || {
            let mut octets = [0; 512];
            let (count, client) = socket.recv_from(&mut octets).unwrap();
            socket.send_to(&good(&octets[..count]), client).unwrap();
        });
        let question = Question::new(&"mail.example".parse().unwrap(), Rtype::A).unwrap();
        assert_eq!(ask(server, &question, Instant::now() + LONG).unwrap().told, good_address());
        answering.join().unwrap();
    }

    #[test]
    fn what_is_too_large_for_a_datagram_comes_by_tcp() {
        let server = Fake::start(|query, way| match way {
            Way::Datagram(_) => vec![truncated(query)],
            Way::Stream => vec![good(query)],
        });
        assert_eq!(try_once(&server, LONG).unwrap(), good_address());
    }

    #[test]
    fn what_comes_by_tcp_is_checked_too() {
        type Answer = fn(&[u8]) -> Vec<u8>;
        let cases: [(&str, Answer); 4] = [
            ("it hung up before its answer was whole", |_| Vec::new()),
            ("it sent something else than an answer by TCP", |query| {
                let mut other_id = good(query);
                other_id[0] ^= 1;
                other_id
            }),
            ("it sent something else than an answer by TCP", truncated),
            (CUT, |query| cut(&good(query))),
        ];
        for (expected, answer) in cases {
            let server = Fake::start(move |query, way| match way {
                Way::Datagram(_) => vec![truncated(query)],
                Way::Stream => vec![answer(query)],
            });
            assert_eq!(words(&server, LONG), expected);
        }
    }

    #[test]
    fn a_server_without_edns_is_asked_without() {
        let server = Fake::start(|query, _| {
            let has_edns = query[11] == 1;
            vec![if has_edns { refused(query, Rcode::FORMERR) } else { good(query) }]
        });
        assert_eq!(try_once(&server, LONG).unwrap(), good_address());
        let server = Fake::start(|query, _| vec![refused(query, Rcode::FORMERR)]);
        assert_eq!(words(&server, LONG), "it says FORMERR");
        assert_eq!(server.ids().len(), 2);
    }

    #[test]
    fn silence_ends_at_the_deadline_by_either_way() {
        let silent = Fake::start(|_, _| Vec::new());
        assert_eq!(words(&silent, SHORT), "it does not answer");
        let slow = Fake::start(|query, way| {
            if matches!(way, Way::Stream) {
                std::thread::sleep(2 * SHORT);
            }
            vec![truncated(query)]
        });
        let begun = Instant::now();
        assert_eq!(words(&slow, SHORT), "it does not answer");
        assert!(begun.elapsed() >= SHORT);
    }

    #[test]
    fn where_nobody_listens_is_known_at_once() {
        let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let question = Question::new(&"mail.example".parse().unwrap(), Rtype::A).unwrap();
        let error = ask(address, &question, Instant::now() + LONG).unwrap_err();
        assert_eq!(error.to_string(), "nobody listens there");
    }
}
