//! Addresses, paths, hosts and next hops: what was read is printed so that it is read again as the same, by whoever reads
//! it: a command, an envelope, a header.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use postrider::limits;
use postrider::mail::address::{Address, Domain, ForwardPath, Host, ReversePath};
use postrider::mail::header;
use postrider::mail::next_hop::NextHop;
use postrider::mail::srs::Srs;

use super::is_one_line;

pub fn check(octets: &[u8]) {
    let Ok(text) = str::from_utf8(octets) else { return };
    is_printed_as_read::<Domain>(text);
    is_printed_as_read::<Host>(text);
    is_printed_as_read::<NextHop>(text);
    is_printed_as_read::<ReversePath>(text);
    if let Some(address) = is_printed_as_read::<Address>(text) {
        check_address(&address);
    }
    if let Ok((path, rest)) = ReversePath::read(text) {
        assert!(text.contains(rest));
        assert_eq!(ReversePath::read(&format!("{path} {rest}")), Ok((path.clone(), rest)));
        path.address().into_iter().for_each(check_address);
    }
    match ForwardPath::read(text) {
        Ok((path @ ForwardPath::Postmaster, rest)) => {
            assert_eq!(ForwardPath::read(&format!("<Postmaster> {rest}")), Ok((path, rest)));
        }
        Ok((ForwardPath::Address(address), rest)) => {
            let path = ForwardPath::Address(address.clone());
            assert_eq!(ForwardPath::read(&format!("<{address}> {rest}")), Ok((path, rest)));
            check_address(&address);
        }
        Err(error) => assert!(is_one_line(error.0)),
    }
}

fn is_printed_as_read<T: FromStr + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    let value: T = text.parse().ok()?;
    let printed = value.to_string();
    assert!(is_one_line(&printed), "{printed:?}");
    assert_eq!(printed.parse().ok().as_ref(), Some(&value), "{text:?} is printed {printed:?}");
    Some(value)
}

fn check_address(address: &Address) {
    let printed = address.to_string();
    assert!(is_one_line(&printed) && printed.len() <= limits::PATH - 2, "{printed:?}");
    assert!(address.local_part().len() <= limits::LOCAL_PART);
    assert_eq!(printed.parse().as_ref(), Ok(address));
    let elsewhere: Domain = "elsewhere.example".parse().unwrap();
    let list = format!(" Ann (x) <{printed}>, {printed}");
    let found = header::addresses(list.as_bytes(), &elsewhere);
    assert_eq!(found.as_deref(), Ok(&[address.clone(), address.clone()][..]), "{list:?} in a header");
    let folded = address.folded();
    assert_eq!(folded.folded(), folded);
    check_rewritten(address, &elsewhere);
}

/// A rewritten sender leads back to who it was, and nobody else can make one.
fn check_rewritten(address: &Address, domain: &Domain) {
    let srs = Srs::new("a secret of this test");
    if let Some(rewritten) = srs.forward(address, domain, 20_000) {
        assert_eq!(rewritten.to_string().parse().as_ref(), Ok(&rewritten));
        assert!(srs.back(&rewritten).is_some(), "{rewritten}");
        assert!(Srs::new("a secret of another").back(&rewritten).is_none());
    }
    assert!(srs.back(address).is_none(), "{address} bears no stamp of this secret");
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut texts: Vec<String> = [
        "ann@example.org",
        "<ann@example.org> SIZE=1",
        "<>",
        "<> BODY=8BITMIME",
        "<PostMaster>",
        "<\"b o\\\"b\"@example.org>",
        "\"a\\\\b\"@x.example",
        "\"\"@x.example",
        "<\"user@far\"@local.org>",
        "<user%far@local.org>",
        "<@a.org,@b.org:bob@example.org>",
        "<bob@[192.0.2.7]>",
        "<bob@[IPv6:2001:db8::1]>",
        "<a..b.@example.org>",
        "<bob@bücher.example>",
        "jörg@example.org",
        "İ@example.org",
        "mx:provider.example:2525",
        "[2001:db8::1]:25",
        "[::ffff:192.0.2.7]:25",
        "SRS0=xxxx=5A=far.example=ann@example.org",
        "SRS1=xxxx=far.example==xxxx=5A=b.example=ann@example.org",
        "user@1.2.3.4",
        "a@b",
        "a@-b.example",
    ]
    .map(str::to_owned)
    .into();
    // At the edges of what may be long.
    texts.push(format!("<{}@{}.example>", "a".repeat(limits::LOCAL_PART), "b".repeat(63)));
    texts.push(format!("\"{}\"@b.example", " ".repeat(limits::LOCAL_PART)));
    texts.push(format!("\"{}\"@{}", "\\\"".repeat(limits::LOCAL_PART), ["c"; 128].join(".")));
    let said = super::dialogues::lines(false).into_iter().filter_map(|line| String::from_utf8(line).ok());
    texts.extend(said.filter_map(|line| line.split_once(':').map(|(_, path)| path.to_owned())));
    texts.into_iter().map(String::into_bytes).collect()
}
