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
    /// Whether it has proved who it is.
    pub has_logged_in: bool,
    /// The cipher suite, under TLS.
    pub cipher: Option<&'static str>,
    /// Whether the field is silent about all that tells where it is.
    pub is_hidden: bool,
}

/// The protocol's registered name (RFC 3848, RFC 6531 §4.3).
pub fn protocol(client: &Client, envelope: &Envelope) -> &'static str {
    if !client.hello.extended {
        return "SMTP";
    }
    match (envelope.parameters.smtputf8, client.cipher.is_some(), client.has_logged_in) {
        (false, false, false) => "ESMTP",
        (false, false, true) => "ESMTPA",
        (false, true, false) => "ESMTPS",
        (false, true, true) => "ESMTPSA",
        (true, false, false) => "UTF8SMTP",
        (true, false, true) => "UTF8SMTPA",
        (true, true, false) => "UTF8SMTPS",
        (true, true, true) => "UTF8SMTPSA",
    }
}

/// The field, with its CR LF. `time` is as RFC 5322 writes it. For a hidden client it begins with us, as for mail that was
/// written on this host: any other name would be a wrong one.
pub fn field(client: &Client, envelope: &Envelope, (hostname, id): (&str, QueueId), time: &str) -> String {
    let from = if client.is_hidden { String::new() } else { format!("from {}\r\n\t", seen(client)) };
    let protocol = protocol(client, envelope);
    // With more than one, it would tell each of the others.
    let recipient = match envelope.recipients.as_slice() {
        [only] => format!("\r\n\tfor <{}>", only.address),
        _ => String::new(),
    };
    // RFC 8314 §4.3.
    let tls = client.cipher.map(|cipher| format!("\r\n\ttls {cipher}")).unwrap_or_default();
    format!("Received: {from}by {hostname} with {protocol} id {id}{recipient}{tls};\r\n\t{time}\r\n")
}

/// What it said of itself, and what is known of it.
fn seen(client: &Client) -> String {
    let literal = match client.address {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    };
    let name = client.name.as_ref().map_or("unknown", Domain::as_str);
    format!("{} ({name} {literal})", safe(&client.hello.name))
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

    fn client(name: &str) -> Client {
        Client {
            address: "192.0.2.7".parse().unwrap(),
            name: None,
            hello: Hello { name: name.to_owned(), extended: true },
            has_logged_in: false,
            cipher: None,
            is_hidden: false,
        }
    }

    fn envelope(recipients: &[&str]) -> Envelope {
        let recipient = |text: &&str| Recipient { address: text.parse().unwrap(), parameters: Default::default() };
        Envelope {
            reverse_path: ReversePath::Null,
            parameters: Default::default(),
            recipients: recipients.iter().map(recipient).collect(),
        }
    }

    fn of(client: &Client, recipients: &[&str]) -> String {
        let id = QueueId::after(None, Duration::from_secs(1_795_000_000), 1);
        field(client, &envelope(recipients), ("mail.example.org", id), "Mon, 23 Nov 2026 15:36:51 +0000")
    }

    #[test]
    fn it_says_from_whom_by_whom_and_when() {
        let field = of(&client("laptop"), &["ann@example.org"]);
        assert_eq!(
            field,
            "Received: from laptop (unknown [192.0.2.7])\r\n\tby mail.example.org with ESMTP id 0TQXGV0000001\r\n\tfor \
             <ann@example.org>;\r\n\tMon, 23 Nov 2026 15:36:51 +0000\r\n"
        );
        assert!(!of(&client("laptop"), &["ann@example.org", "bob@example.org"]).contains("for"));
    }

    #[test]
    fn under_tls_it_names_the_cipher_and_of_a_hidden_client_nothing() {
        let hidden =
            Client { has_logged_in: true, cipher: Some("TLS_AES_128_GCM_SHA256"), is_hidden: true, ..client("laptop") };
        assert_eq!(
            of(&hidden, &["ann@example.org"]),
            "Received: by mail.example.org with ESMTPSA id 0TQXGV0000001\r\n\tfor <ann@example.org>\r\n\ttls \
             TLS_AES_128_GCM_SHA256;\r\n\tMon, 23 Nov 2026 15:36:51 +0000\r\n"
        );
    }

    #[test]
    fn each_protocol_has_its_registered_name() {
        for (smtputf8, cipher, has_logged_in, name) in [
            (false, None, false, "ESMTP"),
            (false, None, true, "ESMTPA"),
            (false, Some("X"), false, "ESMTPS"),
            (false, Some("X"), true, "ESMTPSA"),
            (true, None, false, "UTF8SMTP"),
            (true, None, true, "UTF8SMTPA"),
            (true, Some("X"), false, "UTF8SMTPS"),
            (true, Some("X"), true, "UTF8SMTPSA"),
        ] {
            let client = Client { has_logged_in, cipher, ..client("laptop") };
            let mut envelope = envelope(&[]);
            envelope.parameters.smtputf8 = smtputf8;
            assert_eq!(protocol(&client, &envelope), name);
            let old = Client { hello: Hello { name: "a".into(), extended: false }, ..client };
            assert_eq!(protocol(&old, &envelope), "SMTP");
        }
    }

    #[test]
    fn a_name_can_not_pretend_to_be_ours() {
        let field = of(&client("x (good.example [10.0.0.1])\r\nX: y"), &[]);
        assert!(field.starts_with("Received: from x??good.example?[10.0.0.1]???X:?y (unknown"), "{field}");
    }
}
