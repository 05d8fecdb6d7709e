//! The Received field that this host puts on top of each message (RFC 5321 §4.4).
//!
//! What the client said of itself is made safe: it can't end the field or look like our own words.

use std::net::IpAddr;

use super::session::Hello;
use crate::mail::address::Domain;
use crate::mail::envelope::Envelope;
use crate::mail::queue_id::QueueId;

/// What is known of the client.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its address, unmapped.
    pub address: IpAddr,
    /// The name that leads back to the address.
    pub name: Option<Domain>,
    /// What it said.
    pub hello: Hello,
}

/// The protocol's registered name (RFC 3848, RFC 6531 §4.3).
pub fn protocol(hello: &Hello, envelope: &Envelope) -> &'static str {
    match (hello.extended, envelope.parameters.smtputf8) {
        (true, true) => "UTF8SMTP",
        (true, false) => "ESMTP",
        (false, _) => "SMTP",
    }
}

/// The field, with its CR LF. `time` is as RFC 5322 writes it.
pub fn field(client: &Client, envelope: &Envelope, (hostname, id): (&str, QueueId), time: &str) -> String {
    let literal = match client.address {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    };
    let name = client.name.as_ref().map_or("unknown", Domain::as_str);
    let said = safe(&client.hello.name);
    let protocol = protocol(&client.hello, envelope);
    // With more than one, it would tell each of the others.
    let recipient = match envelope.recipients.as_slice() {
        [only] => format!("\r\n\tfor <{}>", only.address),
        _ => String::new(),
    };
    format!(
        "Received: from {said} ({name} {literal})\r\n\tby {hostname} with {protocol} id {id}{recipient};\r\n\t{time}\r\n"
    )
}

fn safe(name: &str) -> String {
    let kept = |letter: char| if letter.is_ascii_alphanumeric() || ".-_:[]".contains(letter) { letter } else { '?' };
    name.chars().map(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address::ReversePath;
    use crate::mail::envelope::Recipient;
    use std::time::Duration;

    fn of(name: &str, recipients: &[&str]) -> String {
        let hello = Hello { name: name.to_owned(), extended: true };
        let client = Client { address: "192.0.2.7".parse().unwrap(), name: None, hello };
        let recipient = |text: &&str| Recipient { address: text.parse().unwrap(), parameters: Default::default() };
        let envelope = Envelope {
            reverse_path: ReversePath::Null,
            parameters: Default::default(),
            recipients: recipients.iter().map(recipient).collect(),
        };
        let id = QueueId::after(None, Duration::from_secs(1_795_000_000), 1);
        field(&client, &envelope, ("mail.example.org", id), "Mon, 23 Nov 2026 15:36:51 +0000")
    }

    #[test]
    fn it_says_from_whom_by_whom_and_when() {
        let field = of("laptop", &["ann@example.org"]);
        assert_eq!(
            field,
            "Received: from laptop (unknown [192.0.2.7])\r\n\tby mail.example.org with ESMTP id 0TQXGV0000001\r\n\tfor \
             <ann@example.org>;\r\n\tMon, 23 Nov 2026 15:36:51 +0000\r\n"
        );
        assert!(!of("laptop", &["ann@example.org", "bob@example.org"]).contains("for"));
    }

    #[test]
    fn a_name_can_not_pretend_to_be_ours() {
        let field = of("x (good.example [10.0.0.1])\r\nX: y", &[]);
        assert!(field.starts_with("Received: from x??good.example?[10.0.0.1]???X:?y (unknown"), "{field}");
    }
}
