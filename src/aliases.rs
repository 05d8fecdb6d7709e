//! What names stand for: the aliases file in sendmail's format, and the lists that it includes.
//!
//! ```text
//! # name: target, target
//! info:        ann, bob@example.net
//! ann@second.example: ann
//! team:        :include:/etc/postrider/team
//! owner-team:  ann
//! root:        \root                      a backslash: the mailbox itself, whatever alias has its name
//! @second.example: ann                    whatever no other name takes
//! ```
//!
//! A line that begins with a space goes on with the one before; `#` begins a comment. Programs and files as targets are
//! refused, with the line. A list that can't be read is no error of the aliases file: mail for it is deferred.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::io::table::{self, LocatedError};
use crate::limits;
use crate::mail::address::{Address, Domain};

/// Who stands behind which name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aliases {
    names: HashMap<String, Vec<AliasTarget>>,
    lists: HashMap<PathBuf, Result<Vec<AliasTarget>, LocatedError>>,
}

/// One thing a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AliasTarget {
    /// A full address.
    Address(Address),
    /// A name in the first local domain, in lower case.
    Name(String),
    /// `\name`: the mailbox of that name, without a further look at the aliases.
    Mailbox(String),
    /// `:include:/path`: whoever stands in that file.
    Include(PathBuf),
}

impl Aliases {
    /// Reads the aliases file and the lists it names. A file that is not there is an empty one.
    pub fn load(path: &Path) -> Result<Aliases, LocatedError> {
        let text = table::read(path, limits::TABLE_FILE)?.unwrap_or_default();
        Aliases::parse(path, &text)
    }

    /// Reads the text of an aliases file, and the lists it names.
    pub fn parse(path: &Path, text: &str) -> Result<Aliases, LocatedError> {
        let mut aliases = Aliases::default();
        for (line, entry) in entries(text) {
            let error = |what: String| LocatedError::at(path, line, what);
            let (name, targets) = split_name(&entry)
                .ok_or_else(|| error("this is no alias; write it like name: target, target".to_owned()))?;
            let targets = parse_targets(path, targets).map_err(error)?;
            if targets.is_empty() {
                return Err(error(format!("the alias {name} has no target")));
            }
            let key = key_of(&name).map_err(error)?;
            if aliases.names.insert(key, targets).is_some() {
                return Err(error(format!("the alias {name} stands in this file twice")));
            }
        }
        aliases.read_lists();
        Ok(aliases)
    }

    /// The targets of `name` (in lower case) at `domain`: those of the full address go before those of the bare name.
    pub fn get(&self, name: &str, domain: &Domain) -> Option<&[AliasTarget]> {
        let by_address = self.names.get(&format!("{name}@{domain}"));
        // A local-part may look like another's address, or like a whole domain's.
        let by_name = || self.names.get(name).filter(|_| !name.contains('@'));
        by_address.or_else(by_name).map(Vec::as_slice)
    }

    /// The targets of whatever else is sent to `domain`.
    pub fn catch_all(&self, domain: &Domain) -> Option<&[AliasTarget]> {
        self.names.get(&format!("@{domain}")).map(Vec::as_slice)
    }

    /// The members of a list, or why it can't be read.
    pub fn list(&self, path: &Path) -> Result<&[AliasTarget], LocatedError> {
        match self.lists.get(path) {
            Some(Ok(members)) => Ok(members),
            Some(Err(error)) => Err(error.clone()),
            None => Err(LocatedError::of(path, "the list was not there when the aliases were read")),
        }
    }

    /// The lists that can't be read, and why.
    pub fn broken_lists(&self) -> impl Iterator<Item = &LocatedError> {
        self.lists.values().filter_map(|list| list.as_ref().err())
    }

    /// The files of the lists, to be watched for changes.
    pub fn list_files(&self) -> impl Iterator<Item = &Path> {
        self.lists.keys().map(PathBuf::as_path)
    }

    /// Every name and address that stands for something.
    pub fn names(&self) -> impl Iterator<Item = (&str, &[AliasTarget])> {
        self.names.iter().map(|(name, targets)| (name.as_str(), targets.as_slice()))
    }

    fn read_lists(&mut self) {
        for target in self.names.values().flatten() {
            if let AliasTarget::Include(path) = target {
                self.lists.entry(path.clone()).or_insert_with(|| read_list(path));
            }
        }
    }
}

/// A list has one or more targets a line. It can't include another list: who is on it is to be seen in one place.
fn read_list(path: &Path) -> Result<Vec<AliasTarget>, LocatedError> {
    let missing = || LocatedError::of(path, "the file is not there");
    let text = table::read(path, limits::TABLE_FILE)?.ok_or_else(missing)?;
    let mut members = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let found = parse_targets(path, strip_comment(line)).map_err(|what| LocatedError::at(path, at + 1, what))?;
        if found.iter().any(|target| matches!(target, AliasTarget::Include(_))) {
            return Err(LocatedError::at(path, at + 1, "a list can't include another; name both in the aliases file"));
        }
        members.extend(found);
    }
    Ok(members)
}

/// The entries with the number of their first line, continuation lines joined and comments left out.
fn entries(text: &str) -> Vec<(usize, String)> {
    let mut entries: Vec<(usize, String)> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let content = strip_comment(line);
        if content.trim().is_empty() {
            continue;
        }
        match entries.last_mut() {
            Some((_, entry)) if content.starts_with([' ', '\t']) => entry.push_str(content),
            _ => entries.push((at + 1, content.to_owned())),
        }
    }
    entries
}

/// A `#` begins a comment unless it is quoted or part of a word.
fn strip_comment(line: &str) -> &str {
    let mut quoted = false;
    let mut before = ' ';
    for (at, letter) in line.char_indices() {
        match letter {
            '"' if before != '\\' => quoted = !quoted,
            '#' if !quoted && before.is_whitespace() => return &line[..at],
            _ => {}
        }
        before = letter;
    }
    line
}

/// Cuts `name: targets` at the first colon outside quotes.
fn split_name(entry: &str) -> Option<(String, &str)> {
    let mut quoted = false;
    let at = entry.find(|letter| {
        quoted ^= letter == '"';
        letter == ':' && !quoted
    })?;
    let name = entry[..at].trim();
    (!name.is_empty()).then(|| (name.to_owned(), &entry[at + 1..]))
}

/// The form under which a name is found: lower case, no quotes, domains in A-labels.
fn key_of(name: &str) -> Result<String, String> {
    if let Some(domain) = name.strip_prefix('@') {
        return domain.parse::<Domain>().map(|domain| format!("@{domain}")).map_err(|error| format!("{name}: {error}"));
    }
    match name.parse::<Address>() {
        Ok(address) => match address.domain() {
            Some(domain) => Ok(format!("{}@{domain}", address.folded().local_part())),
            None => Err(format!("{name}: an alias can't stand at an IP address")),
        },
        // It would be found as the address that it looks like.
        Err(_) if name.contains('@') => Err(format!("{name}: a name with an @ in it needs its domain too")),
        Err(_) => local_name(name),
    }
}

fn parse_targets(path: &Path, text: &str) -> Result<Vec<AliasTarget>, String> {
    split_at_commas(text).into_iter().map(|target| parse_target(path, target)).collect()
}

fn parse_target(path: &Path, text: &str) -> Result<AliasTarget, String> {
    let unquoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    if unquoted.starts_with('|') {
        return Err(format!("{text}: programs can't be targets yet; name a mailbox or an address"));
    }
    if unquoted.starts_with('/') {
        return Err(format!("{text}: files can't be targets; name a mailbox or an address"));
    }
    if let Some(list) = unquoted.strip_prefix(":include:") {
        let folder = path.parent().unwrap_or(Path::new(""));
        return Ok(AliasTarget::Include(folder.join(list.trim())));
    }
    if let Some(name) = text.strip_prefix('\\') {
        return local_name(name).map(AliasTarget::Mailbox);
    }
    let bracketed = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(text);
    match bracketed.parse() {
        Ok(address) => Ok(AliasTarget::Address(address)),
        Err(error) if bracketed.contains('@') => Err(format!("{text}: {error}")),
        Err(_) => local_name(bracketed).map(AliasTarget::Name),
    }
}

/// A name without a domain, checked as a local-part.
fn local_name(text: &str) -> Result<String, String> {
    match format!("{text}@localhost").parse::<Address>() {
        Ok(address) => Ok(address.folded().local_part().to_owned()),
        Err(error) => Err(format!("{text}: {error}")),
    }
}

fn split_at_commas(text: &str) -> Vec<&str> {
    let mut quoted = false;
    let parts = text.split(|letter| {
        quoted ^= letter == '"';
        letter == ',' && !quoted
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Aliases, LocatedError> {
        Aliases::parse(Path::new("/etc/aliases"), text)
    }

    fn targets(aliases: &Aliases, name: &str) -> Vec<String> {
        let domain = "example.org".parse().unwrap();
        aliases.get(name, &domain).unwrap_or_default().iter().map(|target| format!("{target:?}")).collect()
    }

    #[test]
    fn sendmails_format_is_read() {
        let aliases = parse(
            "# comment\nInfo: Ann,\n\tbob@Far.example # both\n\n\"two words\": \\ann\nann@example.org: <carol@far.example>\n",
        )
        .unwrap();
        assert_eq!(targets(&aliases, "info").len(), 2);
        assert!(targets(&aliases, "info")[0].contains("Name(\"ann\")"));
        assert_eq!(targets(&aliases, "two words"), ["Mailbox(\"ann\")"]);
        assert!(targets(&aliases, "ann")[0].contains("carol"), "the full address goes first");
    }

    #[test]
    fn each_error_names_its_line() {
        for (text, line) in [
            ("\nno colon", 2),
            ("a:", 1),
            ("a: b\nA: c", 2),
            ("a: \"|/bin/sh\"", 1),
            ("a: /var/mail/a", 1),
            ("a: b@", 1),
            ("# x\n\na: b,\n  c d@x.org", 3),
            ("@-: a", 1),
            ("a b: c", 1),
            ("\"a@b.org\": c", 1),
        ] {
            assert_eq!(parse(text).unwrap_err().line, Some(line), "{text}");
        }
    }

    #[test]
    fn lists_are_read_beside_the_aliases_and_one_that_is_missing_breaks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("team"), "ann # the boss\nbob@far.example, carol\n").unwrap();
        let path = folder.path().join("aliases");
        let aliases = Aliases::parse(&path, "team: :include:team\ngone: :include:/nowhere/list, ann").unwrap();
        assert_eq!(aliases.list(&folder.path().join("team")).unwrap().len(), 3);
        assert!(aliases.list(Path::new("/nowhere/list")).is_err());
        assert_eq!(aliases.broken_lists().count(), 1);
    }
}
