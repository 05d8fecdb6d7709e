//! How a manual page is taken apart: into sections, the items of its lists, and what it shows literally.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A page, with the escapes that stand for letters replaced by these.
pub fn page(name: &str) -> String {
    read(&format!("etc/{name}")).replace("\\(dq", "\"").replace("\\&", "").replace("\\e", "\\")
}

/// What stands below a heading, `.Sh NAME` or `.Ss Name`, up to the next of its kind.
pub fn section(page: &str, heading: &str) -> String {
    let start = format!("\n{heading}\n");
    let at = page.find(&start).unwrap_or_else(|| panic!("there is no {heading}")) + start.len();
    let rest = &page[at..];
    let ends = ["\n.Sh ", &format!("\n{} ", &heading[..3])].map(|end| rest.find(end).unwrap_or(rest.len()));
    rest[..ends[0].min(ends[1])].to_owned()
}

/// The items of a list that begin with this macro: what follows it, and the text up to the next item.
pub fn items(text: &str, name: &str) -> Vec<(String, String)> {
    let start = format!(".It {name} ");
    let mut items: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix(&start) {
            items.push((head.to_owned(), String::new()));
        } else if let Some((_, body)) = items.last_mut() {
            body.push_str(line);
            body.push('\n');
        }
    }
    items
}

/// The heads of items.
pub fn heads(text: &str, name: &str) -> Vec<String> {
    items(text, name).into_iter().map(|(head, _)| head).collect()
}

/// The literal displays of a page.
pub fn displays(page: &str) -> Vec<String> {
    let blocks = page.split("\n.Bd -literal").skip(1).map(|block| block.split("\n.Ed").next().unwrap_or_default());
    blocks.map(|block| block.split_once('\n').map_or("", |(_, text)| text).to_owned() + "\n").collect()
}

/// The literal display that holds these words.
pub fn display(page: &str, words: &str) -> String {
    displays(page).into_iter().find(|text| text.contains(words)).unwrap_or_else(|| panic!("no display has {words}"))
}

pub fn set<T: Into<String>>(names: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    names.into_iter().map(Into::into).collect()
}

/// The texts that stand between `start` and `end` in `text`.
pub fn between<'t>(text: &'t str, start: &'t str, end: &'t str) -> Vec<&'t str> {
    text.split(start).skip(1).filter_map(|rest| rest.split(end).next()).collect()
}
