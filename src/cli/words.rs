//! How values are told to a person: spans, times and sizes in words, foreign text without anything a terminal obeys, and
//! lines that fit.
//!
//! Pure but for the width of the terminal.

use std::io::{self, IsTerminal};
use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::io::clock;
use crate::mail::letters::is_misleading;

/// Columns where the output is no terminal, or one that does not say.
const COLUMNS: usize = 80;

/// Columns below which nothing is cut: a line must say something.
const COLUMNS_LEAST: usize = 40;

/// How many columns a line of standard output may have.
pub fn width() -> usize {
    if !io::stdout().is_terminal() {
        return COLUMNS;
    }
    let of_terminal = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    let of_shell = || std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    of_terminal.filter(|width| *width > 0).or_else(of_shell).unwrap_or(COLUMNS).max(COLUMNS_LEAST)
}

/// Cuts a text to `width` columns; … stands for what is missing.
pub fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut columns = 1;
    let fits = |letter: &char| {
        columns += letter.width().unwrap_or_default();
        columns <= width
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// Foreign words with everything escaped that a terminal would obey, or that hides what is said.
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_misleading(letter) {
            true => shown.extend(letter.escape_default()),
            false => shown.push(letter),
        }
    }
    shown
}

/// A span: `45 s`, `12 min`, `3 h`, `2 d`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

/// A time by the wall clock: `15:36`, with the date if it is not that of `now`.
pub fn time(wall: Duration, now: Duration) -> String {
    let (text, today) = (clock::rfc3339(wall), clock::rfc3339(now));
    let (date, time) = (text.get(..10).unwrap_or_default(), text.get(11..16).unwrap_or_default());
    if today.starts_with(date) { time.to_owned() } else { format!("{date} {time}") }
}

/// Octets: `812 B`, `4.2 KiB`, `35 MiB`.
pub fn size(octets: u64) -> String {
    let mut value = octets as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        match value {
            0.0..1024.0 if unit == "B" || value >= 10.0 => return format!("{value:.0} {unit}"),
            0.0..10.0 => return format!("{value:.1} {unit}"),
            _ => value /= 1024.0,
        }
    }
    format!("{value:.1} TiB")
}

/// `1 message`, `3 messages`.
pub fn count(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_it_obeys() {
        let text = "\x1b]0;owned\x07 \u{9b}31m\r\n\u{202e}cba \u{200b}é 日本\x7f";
        let shown = plain(text);
        assert!(!shown.chars().any(|letter| letter.is_control() || "\u{202e}\u{200b}".contains(letter)), "{shown}");
        assert!(shown.starts_with("\\u{1b}]0;owned") && shown.contains("é 日本"), "{shown}");
    }

    #[test]
    fn a_line_is_cut_by_the_columns_it_takes() {
        for (text, width, expected) in
            [("abcdef", 6, "abcdef"), ("abcdefg", 6, "abcde…"), ("日本語日", 6, "日本…"), ("ééééééé", 6, "ééééé…")]
        {
            assert_eq!(fit(text, width), expected);
        }
    }

    #[test]
    fn values_are_told_in_words() {
        let seconds = Duration::from_secs;
        for (told, expected) in [
            (span(seconds(45)), "45 s"),
            (span(seconds(750)), "12 min"),
            (span(seconds(3 * 3600)), "3 h"),
            (span(seconds(5 * 86400)), "5 d"),
            (size(0), "0 B"),
            (size(812), "812 B"),
            (size(4337), "4.2 KiB"),
            (size(35 << 20), "35 MiB"),
            (size(3 << 40), "3.0 TiB"),
            (count(1, "message"), "1 message"),
            (count(0, "message"), "0 messages"),
        ] {
            assert_eq!(told, expected);
        }
        let noon = seconds(1_795_435_200);
        assert_eq!(time(noon, noon).len(), 5);
        assert_eq!(time(noon + seconds(3 * 86400), noon).len(), 16);
    }
}
