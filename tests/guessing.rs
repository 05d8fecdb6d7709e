//! Who guesses passwords at the real server: shut out after some, however many come at once, and nobody else is.

mod support;

use support::net::{Host, Net};
use support::{Client, PASSWORD, Server};

/// More connections than guesses are allowed.
const AT_ONCE: usize = 24;

fn greeted(from: &Host, server: &Server, protocol: &str) -> String {
    let address = server.address(protocol);
    from.inside(|| Client::connect(address)).line()
}

fn connect(from: &Host, server: &Server) -> Client {
    let address = server.pop3_address();
    let mut client = from.inside(|| Client::connect(address));
    assert!(client.line().starts_with("+OK"));
    client
}

#[test]
fn an_address_that_guesses_is_shut_out_and_the_next_one_is_not() {
    let test = "an_address_that_guesses_is_shut_out_and_the_next_one_is_not";
    let Some(net) = Net::new(test, &["ours", "thief", "owner"]) else { return };
    let (ours, thief, owner) = (net.host("ours"), net.host("thief"), net.host("owner"));
    let mut server = Server::prepared("submission = [\"127.0.0.1:0\"]\n[pop3]\ncleartext = [\"10.77.0.0/24\"]\n", "");
    server.configure("[\"127.0.0.1:0\"]", &format!("[\"{}:0\"]", ours.v4));
    let command = ours.around(&server.command());
    server.run_as(command);

    let mut clients: Vec<Client> = (0..AT_ONCE).map(|_| connect(thief, &server)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("USER ann\r\nPASS guess {number}\r\n").as_bytes());
    }
    let answers: Vec<String> = clients
        .iter_mut()
        .map(|client| {
            client.line();
            client.line()
        })
        .collect();
    let wrong = answers.iter().filter(|answer| answer.starts_with("-ERR [AUTH]")).count();
    let shut = answers.iter().filter(|answer| answer.starts_with("-ERR [SYS/TEMP] too many wrong passwords")).count();
    // Of those that are being checked at that moment some may be over the limit.
    assert!((15..15 + 4).contains(&wrong) && wrong + shut == AT_ONCE, "{answers:?}");
    server.logged(&[&format!(" WARN - shut-out client={} failures=15 for=15m", thief.v4)]);

    let shut_out = "too many wrong passwords from your address; try again later";
    assert_eq!(greeted(thief, &server, "pop3"), format!("-ERR [SYS/TEMP] {shut_out}"));
    assert_eq!(greeted(thief, &server, "submission"), format!("421 4.7.0 {shut_out}"));
    assert!(greeted(thief, &server, "smtp").starts_with("220 "), "where nobody logs in mail is taken");
    assert!(greeted(owner, &server, "submission").starts_with("220 "));
    connect(owner, &server).ask("USER ann", "+OK");
    let mut client = connect(owner, &server);
    client.ask("USER ann", "+OK");
    client.ask(&format!("PASS {PASSWORD}"), "+OK");
}
