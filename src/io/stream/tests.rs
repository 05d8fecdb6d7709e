//! Places, and how long a peer that is silent or slow is waited for.

use super::*;
use std::net::TcpListener;
use std::thread;

use socket2::SockRef;

/// Both ends of a connection.
pub fn pair() -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, peer) = listener.accept().unwrap();
    (client, server, peer)
}

#[test]
fn places_are_counted_and_given_back() {
    let all = Connections::new(2, 1);
    let (_client, server, peer) = pair();
    let place = all.enter(server, peer).unwrap();
    let (_client, server, peer) = pair();
    assert_eq!(all.enter(server, peer).unwrap_err().0, Full::Client);
    drop(place);
    assert_eq!(all.count(), 0);
    let (_client, server, peer) = pair();
    assert!(all.enter(server, peer).is_ok());
}

#[test]
fn of_ipv6_a_client_is_all_that_one_host_has() {
    let all = Connections::new(10, 1);
    let enter = |ip: &str| {
        let (_client, server, _) = pair();
        all.enter(server, SocketAddr::new(ip.parse().unwrap(), 1)).map_err(|(full, _)| full)
    };
    let place = enter("2001:db8:0:1::1").unwrap();
    assert_eq!(enter("2001:db8:0:1:ffff::2").unwrap_err(), Full::Client);
    let _others = ["2001:db8:0:2::1", "192.0.2.7", "::ffff:192.0.2.8"].map(|ip| enter(ip).unwrap());
    assert_eq!(enter("::ffff:192.0.2.7").unwrap_err(), Full::Client);
    drop(place);
    assert!(enter("2001:db8:0:1:ffff::2").is_ok());
}

/// A connection that holds a few kilobytes on its way.
pub fn narrow() -> (TcpStream, Place) {
    let (client, server, peer) = pair();
    SockRef::from(&client).set_recv_buffer_size(1).unwrap();
    SockRef::from(&server).set_send_buffer_size(1).unwrap();
    (client, Connections::new(1, 1).enter(server, peer).unwrap())
}

/// Reads to the end, so that each write is soon over and all of them never. Returns how many octets came.
pub fn read_slowly(mut stream: TcpStream) -> usize {
    let mut octets = 0;
    while let Ok(count @ 1..) = stream.read(&mut [0; 256]) {
        octets += count;
        thread::sleep(Duration::from_millis(2));
    }
    octets
}

const PACE: Pace = Pace { standstill: Duration::from_secs(60), whole: Duration::from_secs(60), rate: 100 };

#[test]
fn a_peer_that_reads_slowly_is_bounded_by_the_pace() {
    let (client, place) = narrow();
    let pace = Pace { whole: Duration::from_millis(100), rate: 1 << 30, ..PACE };
    let mut stream = Stream::new(place, Duration::from_secs(60), pace).unwrap();
    let reader = thread::spawn(move || read_slowly(client));
    let end = (0..100).find_map(|_| stream.write_all(&[b'x'; 32 * 1024]).err()).expect("it does not read so much");
    assert_eq!(end.kind(), io::ErrorKind::TimedOut);
    assert!(stream.socket.write_waits < Duration::from_secs(10), "{:?}", stream.socket.write_waits);
    let begun = stream.socket.write_waits;
    assert_eq!(stream.write(b"x").unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(stream.socket.write_waits, begun, "it is not waited for again");
    drop(stream);
    assert!(reader.join().unwrap() < 1 << 20);
}

#[test]
fn a_peer_that_reads_at_all_has_the_time_it_needs() {
    let (mut client, server, peer) = pair();
    let place = Connections::new(1, 1).enter(server, peer).unwrap();
    // A second for each kilobyte, and nothing besides.
    let pace = Pace { whole: Duration::from_millis(1), rate: 1024, ..PACE };
    let mut stream = Stream::new(place, Duration::from_secs(60), pace).unwrap();
    let reader = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        io::copy(&mut client, &mut io::sink()).unwrap()
    });
    (0..512).for_each(|_| stream.write_all(&[b'x'; 32 * 1024]).unwrap());
    assert!(stream.socket.write_waits > pace.whole);
    drop(stream);
    assert_eq!(reader.join().unwrap(), 512 * 32 * 1024);
}

#[test]
fn a_silent_peer_costs_one_timeout() {
    let (_client, server, peer) = pair();
    let place = Connections::new(1, 1).enter(server, peer).unwrap();
    let mut stream = Stream::new(place, Duration::from_millis(20), PACE).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn a_slow_peer_is_bounded_by_the_deadline() {
    let (mut client, server, peer) = pair();
    let place = Connections::new(1, 1).enter(server, peer).unwrap();
    let mut stream = Stream::new(place, Duration::from_secs(60), PACE).unwrap();
    stream.set_deadline(Duration::from_millis(30));
    client.write_all(b"a").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 1);
    assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn closing_wakes_those_that_wait_and_no_others() {
    let all = Connections::new(2, 2);
    let (mut client, server, peer) = pair();
    let place = all.enter(server, peer).unwrap();
    let mut stream = Stream::new(place, Duration::from_secs(60), PACE).unwrap();
    all.close_idle();
    client.write_all(b"x").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 1, "in the middle of a command");
    stream.set_waiting(true);
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "waiting for the next");
}
