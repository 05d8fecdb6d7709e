//! The octets of a message on their way to a next hop, by DATA (RFC 5321 §4.1.1.4) or in one chunk (RFC 3030 §2).
//!
//! The last octet is what makes the hop responsible, so it leaves only with the rest of the last block, and only once the
//! content is known to be as long as was announced. Anything else is a [`Stop`] before it, and the connection is to be
//! closed: the hop then has no whole message.

use std::io::{self, Read};

use super::Refusal;
use super::stage::Stage;
use super::wire::Wire;
use crate::io::dot::Stuff;
use crate::limits;

/// Why the message was not sent to its end.
#[derive(Debug)]
pub enum Stop {
    /// The hop's side.
    Hop(Refusal),
    /// Ours: the content can't be read, or is not as long as it was said to be.
    Content(io::Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Hop(refusal)
    }
}

/// Sends all `size` octets of `content` and their end.
pub fn send(wire: &mut Wire, content: &mut dyn Read, size: u64, chunking: bool) -> Result<(), Stop> {
    let mut stuff = (!chunking).then(Stuff::default);
    // One octet more than there should be, so that a short message and its end are one read.
    let room =
        usize::try_from(size).map_or(limits::RELAY_BLOCK, |size| limits::RELAY_BLOCK.min(size.saturating_add(1)));
    let mut block = vec![0; room];
    let mut output = Vec::with_capacity(room + 1024);
    if chunking {
        output.extend_from_slice(format!("BDAT {size} LAST\r\n").as_bytes());
    }
    let mut left = size;
    loop {
        let count = fill(content, &mut block).map_err(Stop::Content)?;
        left = left.checked_sub(count as u64).ok_or_else(|| wrong_length("longer"))?;
        match &mut stuff {
            Some(stuff) => stuff.feed(&block[..count], &mut output),
            None => output.extend_from_slice(&block[..count]),
        }
        if count < block.len() {
            break;
        }
        // The last block waits for the end, and both for the content to have one.
        if left > 0 {
            write(wire, &output)?;
            output.clear();
        }
    }
    if left > 0 {
        return Err(wrong_length("shorter"));
    }
    if let Some(stuff) = stuff {
        stuff.finish(&mut output);
    }
    write(wire, &output)
}

fn write(wire: &mut Wire, octets: &[u8]) -> Result<(), Stop> {
    // A yes to a part of the message would be taken for one to all of it.
    let sent = if wire.has_spoken() {
        Err(wire.out_of_step(Stage::Message, "replied before its end"))
    } else {
        wire.send(Stage::Message, octets)
    };
    sent.map_err(|refusal| Stop::Hop(wire.last_words(Stage::Message).unwrap_or(refusal)))
}

fn wrong_length(how: &str) -> Stop {
    Stop::Content(io::Error::new(io::ErrorKind::InvalidData, format!("the content is {how} than its size")))
}

/// Reads until `block` is full or the content is over.
fn fill(content: &mut dyn Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match content.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::super::Peer;
    use super::super::stage::Patience;
    use super::*;
    use crate::mail::outcome::Outcome;
    use std::io::Write;
    use std::net::TcpListener;

    #[test]
    fn a_reply_to_a_part_of_the_message_is_none_to_all_of_it() {
        for (reply, expected) in [
            (
                "250 2.0.0 taken\r\n",
                "451 4.5.0 mx [127.0.0.1] broke the protocol while we sent the message: it replied",
            ),
            ("450 4.7.1 not now\r\n", "450 4.7.1 not now"),
            ("550 5.7.1 no\r\n", "550 5.7.1 no"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let (address, patience) = (listener.local_addr().unwrap(), Patience::default());
            let mut wire =
                Wire::connect(&Peer { address, name: "mx", is_authentic: true, hello: "mail.example.org", patience })
                    .unwrap();
            let mut hop = listener.accept().unwrap().0;
            hop.write_all(reply.as_bytes()).unwrap();
            while !wire.has_spoken() {}
            let stop = send(&mut wire, &mut &b"x\r\n"[..], 3, true).unwrap_err();
            let Stop::Hop(Refusal { outcome: Outcome::Deferred(cause) | Outcome::Failed(cause), .. }) = stop else {
                panic!("{stop:?}")
            };
            assert!(cause.to_string().starts_with(expected), "{cause}");
            drop(wire);
            assert_eq!(hop.read_to_end(&mut Vec::new()).unwrap(), 0, "nothing was sent");
        }
    }
}
