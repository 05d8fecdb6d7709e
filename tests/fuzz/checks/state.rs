//! State files, which people edit: whatever could be read is printed so that it is read again as the same.

use postrider::spool::state::State;

use super::is_one_line;

pub fn check(octets: &[u8]) {
    let Ok(text) = str::from_utf8(octets) else { return };
    let state = match text.parse::<State>() {
        Ok(state) => state,
        Err(error) => {
            assert!((1..=text.lines().count()).contains(&error.line), "{error}");
            return;
        }
    };
    let printed = state.to_string();
    let again: State = printed.parse().unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!(again.to_string(), printed, "printed twice");
    assert!(printed.lines().all(is_one_line), "{printed:?}");
    // Foreign words lose what could break a line or hide.
    let is_plain = |text: &Option<String>| !text.as_ref().is_some_and(|text| text.contains(char::is_control));
    if state.targets.iter().all(|target| is_plain(&target.reply) && is_plain(&target.host)) {
        assert_eq!(again, state);
    }
    assert_eq!(again.targets.len(), state.targets.len(), "no word begins a target");
    // The same target twice is one.
    let mut places: Vec<_> = state.targets.iter().map(|target| (&target.address, target.via.name())).collect();
    places.sort();
    if places.windows(2).all(|two| two[0] != two[1]) {
        assert_eq!(state.merged_into(state.clone()), state, "an edit that changes nothing");
    }
    let mut told = state.clone();
    for id in state.reports() {
        told.confirm(id, true);
    }
    assert_eq!(told.reports().count(), 0);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let whole = "Attempts: 2\nWaited: 900\nNext-Attempt: 2026-11-23T15:36:51+00:00\nRetry-In: 600\n\n\
                 Target: bob@example.org\nVia: mailbox\nRecipient: all@example.org\nReverse-Path: <ann@example.org>\n\
                 Status: pending\nReply: 451 4.2.4 the list can't be read\nWhen: 2026-11-23T15:26:51+00:00\nReported: no\n\n\
                 Target: \"c d\"@far.example\nVia: next-hop\nRecipient: all@example.org\nReverse-Path: <>\nStatus: failed\n\
                 Gave-Up: yes\nReply: 550 5.1.1 no\nHost: mx.far.example [192.0.2.1]\nReported: 0M5Q2K7XR4B12\n";
    [
        whole,
        "",
        "Attempts: 0\r\nWaited: 0\r\nRetry-In: 0\r\n",
        "Target: a@b.org\nReported: late\nVia: alias\n",
        "Target: a@[192.0.2.1]\nReported: yes\nStatus: DELIVERED\nHost:\n",
        "Next-Attempt: 9999-12-30T23:59:59-12:00\nWaited: 315360000\n",
        "Next-Attempt: 1970-01-01T00:00:00Z",
        "Target: a@b.org\nReply: 550 a\u{1b}[31m\rb\u{85}c\nHost: x\0y\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}
