//! `postrider route`: each step, each end and the schedule, as a person reads them.

mod support;

use std::process::{Command, Output};

use support::Server;

const HOPS: &str = "[relay]\nsmarthost = \"smtp.provider.example:587\"\ndomains = { \"partner.example\" = \"10.0.0.2:2525\" }\n\
                    [delivery]\nretry_min = \"1m\"\nretry_max = \"4m\"\nwarn_after = \"1h\"\ngive_up = \"10m\"\n";

const ALIASES: &str = "team: ann, bob@partner.example\nowner-team: bob\nloop: loop2\nloop2: loop\n";

fn route(server: &Server, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.arg("route").args(words).arg("--config").arg(server.path("postrider.toml")).output().unwrap()
}

#[test]
fn each_way_is_told_with_its_steps_and_its_end() {
    let server = Server::prepared(HOPS, ALIASES);
    for (words, code, parts) in [
        (
            &["ann+lists@example.org"][..],
            0,
            &["without its tag it is ann@example.org", "mailbox of ann@example.org: /"][..],
        ),
        (
            &["team@example.org"],
            0,
            &["is the alias team", "owner-team@example.org", "as bob@partner.example to the host 10.0.0.2, port 2525"],
        ),
        (&["x@far.example"], 0, &["relay.smarthost takes", "to the host smtp.provider.example, port 587"]),
        (&["nobody@example.org"], 67, &["nowhere", "550 5.1.1 no such mailbox here"]),
        (&["loop@example.org"], 67, &["is the alias loop", "leads back to itself"]),
    ] {
        let output = route(&server, words);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{words:?} {said}");
    }
    let said = String::from_utf8(route(&server, &["team@example.org", "--from", "<>"]).stdout).unwrap();
    assert!(!said.contains("owner"), "a report stays one: {said}");
}

#[test]
fn the_schedule_is_that_of_the_configuration_and_stands_where_it_counts() {
    let server = Server::prepared(HOPS, ALIASES);
    let said = String::from_utf8(route(&server, &["x@far.example"]).stdout).unwrap();
    assert!(
        said.contains("tried at once; where that fails for now, again after 60 s, 2 min, 4 min, 8 min, 12 min\n"),
        "{said}"
    );
    assert!(said.contains("told of the delay after 60 min, and gets it back after 10 min"), "{said}");
    for local in ["ann@example.org", "nobody@example.org"] {
        let said = String::from_utf8(route(&server, &[local]).stdout).unwrap();
        assert!(!said.contains("tried at once"), "{said}");
    }
}

#[test]
fn a_wrong_command_line_says_how_it_goes() {
    let server = Server::prepared("", "");
    for (words, code, what) in [
        (&[][..], 64, "the address is missing"),
        (&["a@b.org", "c@d.org"], 64, "one word too many: c@d.org"),
        (&["a@b.org", "--json"], 64, "only queue knows --json"),
        (&["ann"], 65, "write it like ann@example.org"),
        (&["a@b.org", "--from", "a b"], 65, "write the sender like"),
    ] {
        let output = route(&server, words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.starts_with("postrider: ") && said.contains(what), "{words:?} {said}");
    }
}
