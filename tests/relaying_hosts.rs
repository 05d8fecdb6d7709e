//! Hosts on a network, with port 25 and /etc/resolv.conf as in life, and with both families of addresses.

mod support;

use std::net::{IpAddr, TcpListener};

use support::hop::{Act, Exchanger, say};
use support::net::{Host, Net};
use support::next_hop::{Kind, NextHop};
use support::postfix::{Options, Postfix};
use support::world::{AT_HOME, Settings, server_on};
use support::zone::Zone;
use support::{Client, Server, eventually, skip};

const MESSAGE: &str = "From: ann@example.org\r\nSubject: between hosts\r\n\r\nhello\r\n";

fn submit(host: &Host, to: &str) {
    let mut client = host.inside(|| Client::connect(AT_HOME));
    client.expect("220");
    client.ask("EHLO client.example", "250");
    client.submit("<ann@example.org>", &[to], MESSAGE);
}

/// A zone in which both of our domains and far.example have an exchanger of both families.
fn zone<'n>(net: &'n Net, near: &Host, far: &Host) -> Option<Zone<'n>> {
    let mut records = "example.org. MX 10 mail.example.org.\nfar.example. MX 10 mx.far.example.\n".to_owned();
    for (name, host) in [("mail.example.org", near), ("mx.far.example", far)] {
        records += &format!("{name}. A {}\n", host.v4);
        records += &host.v6.map(|v6| format!("{name}. AAAA {v6}\n")).unwrap_or_default();
    }
    Zone::start_on(net.host("names"), &records)
}

fn ends_well(message: &[u8]) -> bool {
    String::from_utf8_lossy(message).replace("\r\n", "\n").ends_with("\n\nhello\n")
}

#[test]
fn postfix_and_we_find_each_other_by_mx() {
    let test = "postfix_and_we_find_each_other_by_mx";
    let Some(net) = Net::new(test, &["near", "far", "names"]) else { return };
    let (near, far) = (net.host("near"), net.host("far"));
    let Some(zone) = zone(&net, near, far) else { return };
    far.etc("resolv.conf", &format!("nameserver {}\n", zone.address().ip()));
    let options = Options { mailboxes: &["bob@far.example"], host: Some(far), ..Options::default() };
    let Some(postfix) = Postfix::start(test, &options) else { return };
    let server = server_on(near, &zone, &Settings::default());
    submit(near, "<bob@far.example>");
    assert!(ends_well(&postfix.wait_for("bob@far.example", 1)[0]));
    server.queue_is_empty();
    let line = server.logged(&[" delivered to=bob@far.example "]);
    assert!(line.contains("mx.far.example ["), "{line}");

    postfix.send("bob@far.example", &["ann@example.org"], b"Subject: back\n\nhello\n");
    assert!(ends_well(&server.wait_for("ann@example.org", 1)[0]));
    assert!(postfix.log().contains("relay=mail.example.org["), "{}", postfix.log());
}

#[test]
fn exim_and_opensmtpd_take_mail_at_their_port() {
    let test = "exim_and_opensmtpd_take_mail_at_their_port";
    for kind in [Kind::Exim, Kind::OpenSmtpd] {
        let Some(net) = Net::new(test, &["near", "far", "names"]) else { return };
        let (near, far) = (net.host("near"), net.host("far"));
        let Some(zone) = zone(&net, near, far) else { return };
        let Some(hop) = NextHop::start(test, kind, &["bob@far.example"], Some(far)) else { continue };
        let server = server_on(near, &zone, &Settings::default());
        submit(near, "<bob@far.example>");
        assert!(ends_well(&hop.wait_for("bob@far.example", 1)[0]));
        server.queue_is_empty();
    }
}

/// Hosts of which far has an exchanger at each of its addresses.
struct Families<'n> {
    server: Server,
    v6: Exchanger,
    v4: Exchanger,
    _zone: Zone<'n>,
}

/// `None` where there is no IPv6. What `except` knows better is said over IPv6.
fn families<'n, F>(net: &'n Net, except: F) -> Option<Families<'n>>
where
    F: FnMut(&str) -> Option<Act> + Clone + Send + 'static,
{
    let (near, far) = (net.host("near"), net.host("far"));
    let zone = zone(net, near, far)?;
    let v6 = far.v6?;
    let [v6, v4] =
        [v6.into(), far.v4.into()].map(|address: IpAddr| far.inside(|| TcpListener::bind((address, 25))).unwrap());
    let (v6, v4) = (Exchanger::start(v6, &[], except), Exchanger::start(v4, &[], |_| None));
    let server = server_on(near, &zone, &Settings { delivery: "connect_timeout = \"1s\"\n", ..Settings::default() });
    Some(Families { server, v6, v4, _zone: zone })
}

impl Families<'_> {
    /// Sends one message, which is to arrive over IPv4 in the first attempt.
    fn arrives_over_ipv4(&self, near: &Host) {
        submit(near, "<bob@far.example>");
        eventually("it arrives over IPv4", || self.v4.messages().len() == 1);
        self.server.queue_is_empty();
        self.server.logged(&[" delivered to=bob@far.example ", &format!("[{}]", self.v4.address.ip())]);
        assert!(!self.server.log().contains(" deferred ") && !self.server.log().contains(" failed "));
    }
}

#[test]
fn who_is_refused_over_ipv6_for_want_of_a_name_is_taken_over_ipv4() {
    let test = "who_is_refused_over_ipv6_for_want_of_a_name_is_taken_over_ipv4";
    for (stage, words) in [
        ("CONNECT", "554 5.7.25 no reverse DNS for your address"),
        (
            "MAIL",
            "550-5.7.1 [fd77::1] Our system has detected that this message does not meet IPv6\r\n\
                  550-5.7.1 sending guidelines regarding PTR records and authentication.\r\n550 5.7.1 see there",
        ),
        ("RCPT", "450 4.7.25 cannot find your reverse hostname"),
        (".", "550 5.7.25 no PTR record"),
    ] {
        let Some(net) = Net::new(test, &["near", "far", "names"]) else { return };
        let Some(world) = families(&net, move |line| line.starts_with(stage).then(|| say(words))) else {
            return skip(test, "no IPv6");
        };
        world.arrives_over_ipv4(net.host("near"));
        assert_eq!((world.v6.connections(), world.v4.connections()), (1, 1), "{stage}");
    }
}

#[test]
fn where_ipv6_leads_nowhere_ipv4_is_tried() {
    let test = "where_ipv6_leads_nowhere_ipv4_is_tried";
    let Some(net) = Net::new(test, &["near", "far", "names"]) else { return };
    let Some(world) = families(&net, |_| None) else { return skip(test, "no IPv6") };
    submit(net.host("near"), "<bob@far.example>");
    eventually("IPv6 is preferred where it works", || world.v6.messages().len() == 1);
    world.server.queue_is_empty();
    drop(world);

    let Some(net) = Net::new(test, &["near", "far", "names"]) else { return };
    let Some(world) = families(&net, |_| None) else { return };
    net.lose(world.v6.address.ip());
    world.arrives_over_ipv4(net.host("near"));
    assert_eq!(world.v6.connections(), 0);
}

#[test]
fn a_host_that_is_lost_for_a_while_gets_its_mail_once_it_is_found() {
    let test = "a_host_that_is_lost_for_a_while_gets_its_mail_once_it_is_found";
    let Some(net) = Net::new(test, &["near", "far", "names"]) else { return };
    let (near, far) = (net.host("near"), net.host("far"));
    let Some(zone) = zone(&net, near, far) else { return };
    let exchanger =
        Exchanger::start(far.inside(|| TcpListener::bind("0.0.0.0:25")).unwrap(), &["PIPELINING"], |_| None);
    let delivery = "connect_timeout = \"1s\"\nretry_min = \"1s\"\nretry_max = \"1s\"\n";
    let server = server_on(near, &zone, &Settings { delivery, ..Settings::default() });
    net.lose(far.v4.into());
    (0..20).for_each(|_| submit(near, "<bob@far.example>"));
    let count = |event: &str| server.log().matches(event).count();
    eventually("all were tried twice", || count(" deferred ") >= 40);
    assert!(count(" hop-down ") < 20, "one attempt at the host tells for all: {}", count(" hop-down "));
    assert_eq!(exchanger.connections(), 0);
    net.find(far.v4.into());
    eventually("all have arrived", || exchanger.messages().len() >= 20);
    server.queue_is_empty();
    server.logged(&[" hop-up "]);
    assert_eq!(exchanger.messages().len(), 20);
    assert!(server.mailbox("ann@example.org").is_empty());
}
