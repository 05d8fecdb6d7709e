//! The tests' own peers, tested: if these fail, what others say of mail between hosts means nothing.

mod support;

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::net::Net;
use support::next_hop::{Kind, NextHop};
use support::postfix::{Options, Postfix};
use support::{Client, Server, eventually, find};

const MESSAGE: &str = "Subject: between hosts\n\n.a dot\nGrüße\n";
/// What stands below its header, to which each host adds.
const BODY: &str = "\n\n.a dot\nGrüße\n";

/// Sends [`MESSAGE`] over a connection whose greeting is still to be read, and returns the reply to `to`, or to the whole.
fn send(client: &mut Client, to: &str) -> String {
    client.expect("220");
    client.ask("EHLO client.example", "250");
    client.ask("MAIL FROM:<sender@near.example>", "250");
    client.send(format!("RCPT TO:<{to}>\r\n").as_bytes());
    let reply = client.reply();
    if !reply.starts_with("250") {
        return reply;
    }
    client.ask("DATA", "354");
    client.send(MESSAGE.replace('\n', "\r\n").replace("\r\n.", "\r\n..").as_bytes());
    client.ask(".", "250")
}

fn is_the_message(found: &[u8]) -> bool {
    String::from_utf8_lossy(found).replace("\r\n", "\n").ends_with(BODY)
}

#[test]
fn postfix_takes_mail_for_its_mailboxes_alone() {
    let options = Options { mailboxes: &["bob@far.example", "carol@far.example"], ..Options::default() };
    let Some(postfix) = Postfix::start("postfix_takes_mail_for_its_mailboxes_alone", &options) else { return };
    assert!(send(&mut Client::connect(postfix.address()), "bob@far.example").starts_with("250"));
    assert!(is_the_message(&postfix.wait_for("bob@far.example", 1)[0]));
    assert!(send(&mut Client::connect(postfix.address()), "nobody@far.example").starts_with("550 5.1.1"));
    assert!(postfix.mailbox("carol@far.example").is_empty());
    assert!(postfix.log().contains("to=<bob@far.example>"));
}

#[test]
fn postfix_relays_to_our_port() {
    let server = Server::start("");
    let options = Options { relayhost: Some(server.smtp_address()), ..Options::default() };
    let Some(postfix) = Postfix::start("postfix_relays_to_our_port", &options) else { return };
    postfix.send("sender@far.example", &["ann@example.org"], MESSAGE.as_bytes());
    let found = server.wait_for("ann@example.org", 1);
    assert!(is_the_message(&found[0]), "{}", String::from_utf8_lossy(&found[0]));
    eventually("the queue of Postfix is empty", || postfix.queue().contains("queue is empty"));
}

#[test]
fn two_postfixes_do_not_know_each_other_and_stop_with_their_values() {
    let test = "two_postfixes_do_not_know_each_other_and_stop_with_their_values";
    let options = Options { mailboxes: &["bob@far.example"], ..Options::default() };
    let Some(far) = Postfix::start(test, &options) else { return };
    let options = Options { hostname: "near.example", relayhost: Some(far.address()), ..Options::default() };
    let near = Postfix::start(test, &options).unwrap();
    near.send("ann@near.example", &["bob@far.example"], MESSAGE.as_bytes());
    let found = far.wait_for("bob@far.example", 1);
    assert!(String::from_utf8_lossy(&found[0]).contains("by near.example (Postfix"));
    let addresses = [far.address(), near.address()];
    drop((far, near));
    assert!(addresses.iter().all(|address| TcpStream::connect(address).is_err()));
}

/// Tries to connect from a host of the net, for so long.
fn connect(net: &Net, from: &str, to: impl Into<IpAddr>, patience: Duration) -> io::Result<TcpStream> {
    let address = SocketAddr::new(to.into(), 25);
    net.host(from).inside(|| TcpStream::connect_timeout(&address, patience))
}

#[test]
fn hosts_reach_each_other_at_port_25_and_nobody_else_does() {
    let test = "hosts_reach_each_other_at_port_25_and_nobody_else_does";
    let Some(net) = Net::new(test, &["alpha", "beta"]) else { return };
    let beta = net.host("beta");
    let _listener = beta.inside(|| TcpListener::bind("[::]:25").or_else(|_| TcpListener::bind("0.0.0.0:25"))).unwrap();
    let patience = Duration::from_secs(10);
    assert_eq!(connect(&net, "alpha", beta.v4, patience).unwrap().peer_addr().unwrap().ip(), IpAddr::V4(beta.v4));
    if let Some(v6) = beta.v6 {
        connect(&net, "alpha", v6, patience).unwrap();
    }
    let refused = connect(&net, "beta", net.host("alpha").v4, patience).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let other = Net::new(test, &["alpha"]).unwrap();
    assert!(connect(&other, "alpha", beta.v4, Duration::from_millis(300)).is_err());
}

#[test]
fn packets_to_a_lost_host_vanish_until_it_is_found() {
    let Some(net) = Net::new("packets_to_a_lost_host_vanish_until_it_is_found", &["alpha", "beta"]) else { return };
    let beta = net.host("beta");
    let _listener = beta.inside(|| TcpListener::bind("0.0.0.0:25")).unwrap();
    let hangs = |address: IpAddr| {
        let begun = Instant::now();
        let error = connect(&net, "alpha", address, Duration::from_millis(1500)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{address}");
        assert!(begun.elapsed() >= Duration::from_millis(1400), "{address}");
    };
    hangs(net.nobody().into());
    connect(&net, "alpha", beta.v4, Duration::from_secs(10)).unwrap();
    net.lose(beta.v4.into());
    hangs(beta.v4.into());
    net.find(beta.v4.into());
    connect(&net, "alpha", beta.v4, Duration::from_secs(10)).unwrap();
}

#[test]
fn what_a_killed_run_left_behind_is_removed_by_the_next() {
    let test = "what_a_killed_run_left_behind_is_removed_by_the_next";
    let Some(first) = Net::new(test, &["alpha"]) else { return };
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let left = format!("postrider-test-{}-0-alpha", gone.id());
    let ip =
        |arguments: &[&str]| Command::new(find("ip").unwrap()).args(arguments).stdin(Stdio::null()).spawn().unwrap();
    assert!(ip(&["netns", "add", &left]).wait().unwrap().success());
    let mut sleeper = ip(&["netns", "exec", &left, "sleep", "30"]);
    let folder = Path::new("/etc/netns").join(&left);
    fs::create_dir_all(&folder).unwrap();
    eventually("the sleeper sleeps there", || {
        let entered = fs::read_link(format!("/proc/{}/ns/net", sleeper.id()));
        entered.is_ok_and(|entered| fs::read_link("/proc/self/ns/net").unwrap() != entered)
    });
    let _second = Net::new(test, &["alpha"]).unwrap();
    assert!(!sleeper.wait().unwrap().success());
    assert!(!Path::new("/run/netns").join(&left).exists() && !folder.exists());
    // Those of a run that goes on are left alone.
    assert!(first.host("alpha").command("true").status().unwrap().success());
}

#[test]
fn each_host_has_its_own_resolv_conf() {
    let Some(net) = Net::new("each_host_has_its_own_resolv_conf", &["alpha", "beta"]) else { return };
    let read = |host: &str| {
        let output = net.host(host).command("cat").arg("/etc/resolv.conf").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    net.host("alpha").etc("resolv.conf", "nameserver 10.77.0.9\n");
    assert_eq!((read("alpha").as_str(), read("beta").as_str()), ("nameserver 10.77.0.9\n", ""));
}

#[test]
fn a_server_and_a_postfix_meet_on_hosts_of_their_own() {
    let test = "a_server_and_a_postfix_meet_on_hosts_of_their_own";
    let Some(net) = Net::new(test, &["ours", "theirs"]) else { return };
    let (ours, theirs) = (net.host("ours"), net.host("theirs"));
    let mut server = Server::prepared("", "");
    server.configure("smtp = [\"127.0.0.1:0\"]", "smtp = [\"0.0.0.0:25\"]");
    server.run_as(ours.around(&server.command()));
    let relayhost = Some(SocketAddr::new(ours.v4.into(), 25));
    let options = Options { host: Some(theirs), mailboxes: &["bob@far.example"], relayhost, ..Options::default() };
    let Some(postfix) = Postfix::start(test, &options) else { return };
    postfix.send("bob@far.example", &["ann@example.org"], MESSAGE.as_bytes());
    assert!(is_the_message(&server.wait_for("ann@example.org", 1)[0]));
    server.logged(&[" accepted ", &format!("client={}", theirs.v4)]);
    let mut client = ours.inside(|| Client::connect(postfix.address()));
    assert!(send(&mut client, "bob@far.example").starts_with("250"));
    postfix.wait_for("bob@far.example", 1);
}

fn takes_mail_for_its_mailboxes_alone(test: &str, kind: Kind) {
    let mailboxes = ["bob@far.example", "carol@farther.example"];
    let Some(hop) = NextHop::start(test, kind, &mailboxes, None) else { return };
    for mailbox in mailboxes {
        assert!(send(&mut Client::connect(hop.address()), mailbox).starts_with("250"));
        let found = hop.wait_for(mailbox, 1);
        assert!(is_the_message(&found[0]), "{}", String::from_utf8_lossy(&found[0]));
    }
    for stranger in ["nobody@far.example", "bob@farther.example", "bob@elsewhere.example"] {
        let reply = send(&mut Client::connect(hop.address()), stranger);
        assert!(reply.starts_with('5'), "{stranger}: {reply}");
    }
    assert!(hop.log().contains("bob@far.example"), "{}", hop.log());
    let address = hop.address();
    drop(hop);
    assert!(TcpStream::connect(address).is_err());
    let Some(net) = Net::new(test, &["ours", "theirs"]) else { return };
    let hop = NextHop::start(test, kind, &mailboxes, Some(net.host("theirs"))).unwrap();
    let mut client = net.host("ours").inside(|| Client::connect(hop.address()));
    assert!(send(&mut client, mailboxes[0]).starts_with("250"));
    hop.wait_for(mailboxes[0], 1);
}

#[test]
fn exim_takes_mail_for_its_mailboxes_alone() {
    takes_mail_for_its_mailboxes_alone("exim_takes_mail_for_its_mailboxes_alone", Kind::Exim);
}

#[test]
fn opensmtpd_takes_mail_for_its_mailboxes_alone() {
    takes_mail_for_its_mailboxes_alone("opensmtpd_takes_mail_for_its_mailboxes_alone", Kind::OpenSmtpd);
}
