//! The manual pages and the sample say what there is, all of it and nothing else.
//!
//! What there is comes from its source: keys from the errors of the configuration itself, events from `maillog.rs`,
//! limits from `limits.rs`, verbs from the usage text, lines of a state file from a state that was printed. A page
//! names each of them as an item of a list (`.It Ic`, `.It Dv`, `.It Va`, `.It Cm`), so that both can be compared.

mod support;
#[path = "pages/text.rs"]
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use postrider::aliases::Aliases;
use postrider::config::{Config, DEFAULT_PATH};
use postrider::mail::address::ReversePath;
use postrider::mail::envelope::Envelope;
use postrider::spool::state::{State, Status, Target, Told, Via};
use text::{between, display, heads, items, page, read, root, section, set};

const PAGES: [&str; 4] = ["postrider.8", "postrider.toml.5", "postrider-spool.5", "postrider-log.5"];

fn parse(table: &str, line: &str) -> Result<Config, String> {
    let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
    Config::parse(&format!("{header}{line}\n"), Path::new("/folder"))
}

/// The keys of a table, as the error about an unknown one lists them; `None` for what is no table.
fn keys_of(table: &str) -> Option<Vec<String>> {
    let error = parse(table, "\"no such key\" = 1").unwrap_err();
    let known = error.split("expected").nth(1).filter(|_| error.contains("unknown field"))?;
    Some(known.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

/// Every key with its table, in the order of the configuration.
fn keys() -> Vec<(String, String)> {
    let mut keys = Vec::new();
    for key in keys_of("").unwrap() {
        match keys_of(&key) {
            None => keys.push((String::new(), key)),
            Some(inner) => keys.extend(inner.into_iter().map(|inner| (key.clone(), inner))),
        }
    }
    keys
}

/// One line of the sample, without its `#`.
struct Setting {
    table: String,
    line: String,
    is_example: bool,
}

impl Setting {
    fn name(&self) -> (String, String) {
        (self.table.clone(), self.line.split(" = ").next().unwrap().to_owned())
    }
}

fn sample() -> Vec<Setting> {
    let mut table = String::new();
    let mut settings = Vec::new();
    for line in read("etc/postrider.toml").lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = name.to_owned();
        } else if let Some(setting) = line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' ')) {
            let example = setting.strip_suffix("  # example");
            let line = example.unwrap_or(setting).to_owned();
            settings.push(Setting { table: table.clone(), line, is_example: example.is_some() });
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "the sample sets something: {line}");
        }
    }
    settings
}

#[test]
fn the_sample_has_every_key_in_order() {
    assert!(keys().len() > 25 && keys().contains(&("listen".to_owned(), "smtp".to_owned())), "{:?}", keys());
    assert_eq!(sample().iter().map(Setting::name).collect::<Vec<_>>(), keys());
}

#[test]
fn each_line_of_the_sample_is_the_default_or_an_example() {
    let default = parse("", "").unwrap();
    for Setting { table, line, is_example } in sample() {
        let config = parse(&table, &line).unwrap_or_else(|error| panic!("[{table}] {line}: {error}"));
        assert_eq!(config != default, is_example, "[{table}] {line}");
    }
}

#[test]
fn the_sample_loads_as_it_is_and_with_every_line() {
    let text = read("etc/postrider.toml");
    let folder = Path::new("/folder");
    assert_eq!(Config::parse(&text, folder).unwrap(), parse("", "").unwrap());
    let all = text.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
        _ => format!("{line}\n"),
    });
    Config::parse(&all.collect::<String>(), folder).unwrap();

    let mut check = Command::new(env!("CARGO_BIN_EXE_postrider"));
    check.args(["check", "--offline", "--config"]).arg(root().join("etc/postrider.toml"));
    let said = String::from_utf8(check.output().unwrap().stdout).unwrap();
    assert!(said.starts_with("ok: ") && said.contains("the configuration can be read"), "{said}");
}

#[test]
fn the_page_has_every_key_as_the_sample_has_it() {
    let page = page("postrider.toml.5");
    let text = section(&page, ".Sh KEYS");
    let mut table = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix(".Ss ") {
            table = heading.trim_start_matches('[').trim_end_matches(']').to_owned();
        } else if let Some(head) = line.strip_prefix(".It Ic ") {
            found.push((table.replace("Main table", ""), head.to_owned()));
        }
    }
    assert_eq!(found, sample().into_iter().map(|setting| (setting.table, setting.line)).collect::<Vec<_>>());
}

#[test]
fn the_page_says_of_each_key_what_is_so() {
    let page = page("postrider.toml.5");
    let entries = items(&section(&page, ".Sh KEYS"), "Ic");
    let default = parse("", "").unwrap();
    for (setting, (head, body)) in sample().into_iter().zip(entries) {
        assert_eq!(body.contains("No fixed default"), setting.is_example, "{head}");
        let examples = between(&body, ".Dl ", "\n");
        assert!(!examples.is_empty(), "{head} has no example");
        for example in examples {
            let changed = parse(&setting.table, example).unwrap_or_else(|error| panic!("{example}: {error}"));
            assert!(example.starts_with(&setting.name().1) && changed != default, "{head}: {example}");
            let fixed = !default.fixed_keys_changed(&changed).is_empty();
            assert_eq!(body.contains("Needs a restart."), fixed, "{head}");
        }
    }
}

#[test]
fn the_files_that_the_pages_show_can_be_read() {
    let page = page("postrider.toml.5");
    Config::parse(&display(&page, "\n[relay]"), Path::new("/folder")).unwrap();
    let aliases = Aliases::parse(Path::new("/folder/aliases"), &display(&page, ":include:")).unwrap();
    assert_eq!(aliases.names().count(), 6);
}

/// A limit as `limits.rs` has it, or as the page does.
#[derive(Debug, PartialEq, Eq)]
struct Limit {
    value: String,
    keys: BTreeSet<String>,
}

/// Every constant of `limits.rs`.
fn limits() -> BTreeMap<String, Limit> {
    let mut limits: BTreeMap<String, Limit> = BTreeMap::new();
    let mut doc = String::new();
    for line in read("src/limits.rs").lines() {
        if let Some(text) = line.strip_prefix("/// ") {
            doc.push_str(text);
        } else if let Some(rest) = line.strip_prefix("pub const ") {
            let (name, rest) = rest.split_once(':').unwrap();
            let value = value_of(rest.split_once(" = ").unwrap().1.trim_end_matches(';'), &limits);
            let is_key =
                |text: &&str| text.starts_with("limits.") && !text.ends_with(".rs") || text.contains("delivery.");
            let keys = set(doc.split('`').skip(1).step_by(2).filter(is_key));
            limits.insert(name.to_owned(), Limit { value, keys });
            doc.clear();
        } else {
            doc.clear();
        }
    }
    limits
}

/// The value of an expression: spans in milliseconds, and sums of products.
fn value_of(expression: &str, known: &BTreeMap<String, Limit>) -> String {
    let number = |text: &str| -> u64 {
        let text = text.trim().split(" as ").next().unwrap().replace('_', "");
        text.parse().unwrap_or_else(|_| {
            known.iter().find(|(name, _)| name.replace('_', "") == text).unwrap().1.value.parse().unwrap()
        })
    };
    let in_call = |name: &str| expression.strip_prefix(name).and_then(|rest| rest.strip_suffix(')'));
    if let Some(seconds) = in_call("Duration::from_secs(") {
        return format!("{} ms", 1000 * number(seconds));
    }
    if let Some(millis) = in_call("Duration::from_millis(") {
        return format!("{} ms", number(millis));
    }
    let product = |text: &str| text.split('*').map(number).product::<u64>();
    expression.split(" + ").map(product).sum::<u64>().to_string()
}

/// `4 KiB`, `250 ms`, `5 min` in the same form.
fn value_on_page(text: &str) -> String {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number: u64 = number.parse().unwrap_or_else(|_| panic!("{text} is no value"));
    let (scale, unit) = match unit {
        "" => (1, ""),
        "KiB" => (1 << 10, ""),
        "MiB" => (1 << 20, ""),
        "ms" => (1, " ms"),
        "s" => (1000, " ms"),
        "min" => (60_000, " ms"),
        "days" => (86_400_000, " ms"),
        _ => panic!("{text} has an unknown unit"),
    };
    format!("{}{unit}", number * scale)
}

#[test]
fn the_page_has_every_limit_with_its_value_and_its_key() {
    let page = page("postrider.toml.5");
    let on_page = |(head, body): (String, String)| {
        let (name, value) = head.split_once(" Pq ").unwrap_or_else(|| panic!("{head} has no value"));
        assert!(body.len() > 20, "{head} has no reason");
        let keys = set(between(&body, ".Ic ", "\n")
            .iter()
            .filter_map(|key| key.split(' ').next().filter(|key| key.contains('.'))));
        (name.to_owned(), Limit { value: value_on_page(value), keys })
    };
    let documented: BTreeMap<String, Limit> =
        items(&section(&page, ".Sh LIMITS"), "Dv").into_iter().map(on_page).collect();
    let limits = limits();
    assert!(limits.len() > 50 && limits["IDLE_COMMANDS"].value == "1000");
    assert_eq!(set(documented.keys()), set(limits.keys()));
    for (name, limit) in limits {
        assert_eq!(documented[&name], limit, "{name}");
    }
}

/// Each event with its level, and each of its fields, as `maillog.rs` writes them.
fn events() -> BTreeMap<String, Vec<String>> {
    let source = read("src/maillog.rs");
    let code = source.split("#[cfg(test)]").next().unwrap();
    let event = |body: &str| {
        let body = body.split(".write()").next().unwrap();
        let (level, name) = (body.split(',').next().unwrap().to_uppercase(), body.split('"').nth(1).unwrap());
        let fields = body.split('.').filter_map(|call| {
            let (function, rest) = call.split_once("(\"")?;
            let key = rest.split('"').next()?;
            match function {
                "pair" => Some(key.to_owned()),
                "maybe" => Some(format!("{key} Pq if known")),
                _ => None,
            }
        });
        (format!("{name} Pq {level}"), fields.collect())
    };
    code.split("event(Level::").skip(1).map(event).collect()
}

#[test]
fn the_page_has_every_event_with_its_level_and_its_fields_in_order() {
    let documented: BTreeMap<String, Vec<String>> = items(&section(&page("postrider-log.5"), ".Sh EVENTS"), "Ic")
        .into_iter()
        .map(|(head, body)| (head, heads(&body, "Va")))
        .collect();
    let events = events();
    assert!(events.len() > 30 && events["held Pq INFO"].is_empty() && events["rejected Pq INFO"].len() == 4);
    assert_eq!(set(documented.keys()), set(events.keys()));
    for (name, fields) in events {
        assert_eq!(documented[&name], fields, "{name}");
    }
}

#[test]
fn the_page_has_every_verb_and_option() {
    let page = page("postrider.8");
    let help = Command::new(env!("CARGO_BIN_EXE_postrider")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let words = |text: &str| {
        let is_word = |word: &&str| word.bytes().all(|octet| octet.is_ascii_lowercase());
        text.split(' ').take_while(is_word).collect::<Vec<_>>().join(" ")
    };
    let lines = help.lines().filter_map(|line| line.strip_prefix("  "));
    let verbs = set(lines.filter_map(|line| line.split("  ").next()).map(words).filter(|verb| !verb.is_empty()));
    assert!(verbs.contains("user add") && verbs.contains("serve"), "{verbs:?}");
    assert_eq!(set(heads(&section(&page, ".Ss Verbs"), "Cm").iter().map(|head| words(head))), verbs);

    let source = read("src/cli/mod.rs");
    let option = |call: &str| {
        let names: Vec<&str> = call.split('"').skip(1).step_by(2).take(2).collect();
        [names[0].to_owned(), format!("-{}", names[1])].into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>()
    };
    let options =
        set(between(&source, "options.opt", ";").into_iter().filter(|call| call.contains('"')).flat_map(option));
    let items = heads(&section(&page, ".Ss Options"), "Fl").into_iter().map(|head| format!("Fl {head}"));
    let documented =
        items.flat_map(|head| between(&head, "Fl ", " ").iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    assert!(options.contains("-offline") && options.contains("c"), "{options:?}");
    assert_eq!(set(documented), options);
}

#[test]
fn the_page_has_every_exit_code_and_signal() {
    let page = page("postrider.8");
    let cli = read("src/cli/mod.rs");
    let daemon = read("src/daemon/mod.rs");
    let codes = between(&cli, ": u8 = ", ";");
    let of_start = between(&daemon, "StartError::", "\n").into_iter().filter_map(|arm| arm.split("=> ").nth(1));
    let of_start = of_start.map(|code| code.trim_end_matches(',')).filter(|code| code.parse::<u8>().is_ok());
    let threads = read("src/daemon/threads.rs");
    let all = codes.into_iter().chain(of_start).chain(between(&threads, "process::exit(", ")"));
    let lines = section(&page, ".Sh EXIT STATUS");
    assert_eq!(set(between(&lines, "\n.It ", "\n")), set(all));

    let signals = between(&daemon, "Signals::new([", "]")[0];
    let documented = heads(&section(&page, ".Ss Signals"), "Dv").join(" , ");
    assert_eq!(set(documented.split(" , ")), set(signals.split(", ")));
}

/// A state that has every line there can be.
fn whole_state(via: Via, status: Status) -> State {
    let at = Some(Duration::from_secs(1_795_448_211));
    let address = "bob@example.net".parse().unwrap();
    let recipient = "all@example.org".parse().unwrap();
    let reverse_path = ReversePath::Address("ann@example.org".parse().unwrap());
    let (reply, host) = (Some("451 4.7.1 later".to_owned()), Some("mx.example.net".to_owned()));
    let (when, told, gave_up) = (at, Told::End, true);
    let target = Target { address, via, recipient, reverse_path, status, gave_up, reply, host, when, told };
    State { attempts: 1, waited: Duration::ZERO, next_attempt: at, retry_in: Duration::ZERO, targets: vec![target] }
}

#[test]
fn the_page_has_every_line_of_a_state_file() {
    let page = page("postrider-spool.5");
    let text = section(&page, ".Sh STATE FILES");
    let state = whole_state(Via::Mailbox, Status::Pending).to_string();
    let names: Vec<&str> =
        state.lines().filter_map(|line| line.split(": ").next()).filter(|name| !name.is_empty()).collect();
    let documented = items(&text, "Va");
    assert_eq!(documented.iter().map(|(head, _)| head).collect::<Vec<_>>(), names);

    let words_of = |name: &str| {
        set(between(&documented.iter().find(|(head, _)| head == name).unwrap().1, ".Cm ", "\n")
            .iter()
            .map(|word| word.split(' ').next().unwrap()))
    };
    let printed = |name: &str, states: Vec<State>| {
        let line = |state: State| between(&state.to_string(), &format!("\n{name}: "), "\n")[0].to_owned();
        states.into_iter().map(line).chain((name == "Status").then(|| "pending".to_owned())).collect::<BTreeSet<_>>()
    };
    let vias = [Via::Mailbox, Via::NextHop, Via::Alias].map(|via| whole_state(via, Status::Pending));
    let statuses = [Status::Pending, Status::Delivered, Status::Failed].map(|status| whole_state(Via::Alias, status));
    assert_eq!(words_of("Via"), printed("Via", vias.to_vec()));
    let told = [Told::Nothing, Told::Late, Told::End].map(|told| {
        let mut state = whole_state(Via::Mailbox, Status::Failed);
        state.targets[0].told = told;
        state
    });
    assert_eq!(words_of("Reported"), printed("Reported", told.to_vec()));
    // The default, pending, is named twice.
    assert_eq!(words_of("Status"), printed("Status", statuses.to_vec()));
}

#[test]
fn the_files_shown_in_the_spool_page_can_be_read() {
    let page = page("postrider-spool.5");
    let shown = display(&page, "Attempts: ");
    let printed = shown.parse::<State>().unwrap().to_string();
    // Times are printed in the zone of this machine.
    let is_time = |line: &&str| line.starts_with("Next-Attempt:") || line.starts_with("When:");
    let lines = |text: &str| set(text.lines().filter(|line| !is_time(line)));
    assert_eq!(lines(&printed), lines(&shown));
    for words in ["SIZE=0000004337", "X-Sender: ann@example.org"] {
        let found = Envelope::read(display(&page, words).as_bytes()).unwrap().unwrap();
        assert!(!found.envelope.recipients.is_empty());
    }
}

#[test]
fn the_page_has_every_folder_and_every_parameter_of_the_envelope() {
    let page = page("postrider-spool.5");
    let folders = between(&read("src/spool/mod.rs"), " folder(\"", "\"")
        .iter()
        .map(|name| format!("{name}/"))
        .collect::<BTreeSet<_>>();
    assert!(folders.len() >= 5);
    assert_eq!(set(heads(&section(&page, ".Ss Folders"), "Pa")), folders);

    let source = read("src/mail/parameter.rs");
    let is_arm = |line: &&str| line.starts_with('"') && (line.contains("=> set(") || line.contains("=> flag("));
    let parameters = set(source.lines().map(str::trim).filter(is_arm).filter_map(|line| line.split('"').nth(1)));
    assert!(parameters.len() >= 8);
    let documented = heads(&section(&page, ".Sh MESSAGE FILES"), "Cm");
    assert_eq!(set(documented.iter().filter_map(|head| head.split(' ').next())), parameters);
}

/// A key or an event that is named anywhere is one that there is.
#[test]
fn the_pages_name_nothing_that_is_not_there() {
    let mut known = set(events().keys().map(|name| name.split(' ').next().unwrap()));
    for (table, key) in keys() {
        known.insert(format!("{table}.{key}"));
        known.insert(key);
    }
    for name in PAGES {
        let page = page(name);
        for line in page.lines().filter(|line| line.starts_with('.')) {
            let mut words = line.split(' ').skip_while(|word| word.trim_start_matches('.') != "Ic").skip(1);
            if let Some(word) = words.next() {
                assert!(known.contains(word), "{name}: {line}");
            }
        }
        for heading in between(&page, ".Sx ", "\n") {
            let heading = heading.trim_end_matches(" .");
            assert!(page.contains(&format!("\n.Sh {heading}\n")), "{name} has no section {heading}");
        }
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// Pages that are named exist, and so do files of this tree; the default paths are those of the configuration.
#[test]
fn what_is_referred_to_exists() {
    assert_eq!(
        set(fs::read_dir(root().join("etc"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(['5', '8']))),
        set(PAGES)
    );
    for name in PAGES {
        let page = page(name);
        for reference in between(&page, ".Xr postrider", "\n") {
            let mut words = reference.split(' ');
            let file = format!("postrider{}.{}", words.next().unwrap(), words.next().unwrap());
            assert!(PAGES.contains(&file.as_str()), "{name}: {file}");
        }
        for path in between(&page, ".Pa src/", "\n") {
            assert!(root().join("src").join(path.trim_end_matches([' ', '.', ','])).exists(), "{name}: {path}");
        }
    }
    let mut sources = vec![root().join("etc/postrider.toml")];
    files(&root().join("src"), &mut sources);
    for path in sources {
        let text = fs::read_to_string(&path).unwrap();
        for part in text.split("postrider").skip(1) {
            let Some((name, rest)) = part.split_once('(').filter(|(name, _)| !name.contains([' ', '\n', ':', '"']))
            else {
                continue;
            };
            let file = format!("postrider{name}.{}", rest.chars().next().unwrap_or(' '));
            assert!(PAGES.contains(&file.as_str()), "{}: {file}", path.display());
        }
    }
    let makefile = read("Makefile");
    let examples = ["postrider.toml", "logrotate.conf", "fail2ban-filter.conf", "fail2ban-jail.conf"]
        .map(|name| format!("share/examples/postrider/{name}"));
    for example in &examples {
        let installed = makefile.matches(&format!("$(DESTDIR)$(PREFIX)/{example}\n")).count();
        assert_eq!(installed, 2, "install and uninstall name {example}");
    }
    let default = Config::parse("", Path::new("/")).unwrap();
    let paths = [&default.users, &default.aliases, &PathBuf::from(default.log.to_string()), &default.spool.join("")];
    let mut expected = set(paths.iter().map(|path| path.to_str().unwrap()));
    let units = ["service", "socket"].map(|kind| format!("lib/systemd/system/postrider.{kind}"));
    units.iter().for_each(|unit| assert!(root().join("etc").join(unit.rsplit('/').next().unwrap()).exists()));
    expected.extend(units);
    expected.extend(examples);
    expected.insert(DEFAULT_PATH.to_owned());
    assert_eq!(set(heads(&section(&page("postrider.8"), ".Sh FILES"), "Pa")), expected);
}

#[test]
fn mandoc_has_no_complaint() {
    if !support::have("mandoc", "mandoc_has_no_complaint") {
        return;
    }
    for name in PAGES {
        let lint = Command::new("mandoc")
            .args(["-T", "lint", "-W", "warning"])
            .arg(root().join("etc").join(name))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&lint.stdout).into_owned() + &String::from_utf8_lossy(&lint.stderr);
        assert!(lint.status.success() && said.is_empty(), "{said}");
    }
}
