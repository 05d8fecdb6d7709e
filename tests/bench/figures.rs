//! The one table: what was measured, in the order it was first measured in, with medians, spreads and ratios.

use std::fmt::Write;

/// How a figure is written.
#[derive(Clone, Copy, PartialEq)]
pub enum Unit {
    PerSecond,
    Each,
    Microseconds,
    Milliseconds,
    Seconds,
    KiB,
    Octets,
}

/// What was measured, all runs of it.
#[derive(Default)]
pub struct Figures {
    rows: Vec<Row>,
    servers: Vec<&'static str>,
}

struct Row {
    what: String,
    unit: Unit,
    /// In the order of the runs.
    samples: Vec<(&'static str, f64)>,
}

impl Figures {
    /// With a column for each of these, whatever is measured of them.
    pub fn of(servers: &[&'static str]) -> Figures {
        Figures { rows: Vec::new(), servers: servers.to_vec() }
    }

    /// Takes up what one run of one server came to.
    pub fn add(&mut self, what: &str, unit: Unit, server: &'static str, value: f64) {
        let at = self.rows.iter().position(|row| row.what == what).unwrap_or_else(|| {
            self.rows.push(Row { what: what.to_owned(), unit, samples: Vec::new() });
            self.rows.len() - 1
        });
        self.rows[at].samples.push((server, value));
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| |");
        self.servers.iter().for_each(|server| _ = write!(text, " {server} |"));
        text += " ÷ Postfix | ÷ smtp-sink |\n| --- |";
        text + &" ---: |".repeat(self.servers.len() + 2) + &self.from(0) + "\n"
    }

    /// The rows from one on, a line each.
    pub fn from(&self, first: usize) -> String {
        let mut text = String::new();
        for row in &self.rows[first..] {
            _ = write!(text, "\n| {} |", row.what);
            for server in &self.servers {
                _ = write!(text, " {} |", row.cell(server));
            }
            _ = write!(text, " {} | {} |", row.ratio("Postfix"), row.ratio("smtp-sink"));
        }
        text
    }
}

impl Row {
    fn of(&self, server: &str) -> Vec<f64> {
        let own = self.samples.iter().filter(|(name, _)| *name == server);
        own.map(|(_, value)| *value).collect()
    }

    /// The median, and the least and the most where there were several runs.
    fn cell(&self, server: &str) -> String {
        let values = sorted(self.of(server));
        match values[..] {
            [] => String::new(),
            [only] => self.unit.print(only),
            [least, .., most] => {
                let [median, least, most] = [median(&values), least, most].map(|value| self.unit.print(value));
                format!("{median} ({least}–{most})")
            }
        }
    }

    /// Postrider's figure through the other's, by the median of those that were measured in the same turn.
    fn ratio(&self, other: &str) -> String {
        let (ours, theirs) = (self.of("Postrider"), self.of(other));
        let ratios = ours.iter().zip(&theirs).filter(|(_, theirs)| **theirs > 0.0).map(|(ours, theirs)| ours / theirs);
        match sorted(ratios.collect()) {
            ratios if ratios.is_empty() => String::new(),
            ratios => format!("{:.2}", median(&ratios)),
        }
    }
}

impl Unit {
    fn print(self, value: f64) -> String {
        match self {
            Unit::PerSecond => format!("{}/s", grouped(value)),
            Unit::Each => grouped(value),
            Unit::Microseconds => format!("{} µs", grouped(value)),
            Unit::Milliseconds => format!("{} ms", grouped(value)),
            Unit::Seconds => format!("{} s", grouped(value)),
            Unit::KiB if value >= 10_240.0 => format!("{} MiB", grouped(value / 1024.0)),
            Unit::KiB => format!("{} KiB", grouped(value)),
            Unit::Octets if value >= 10_485_760.0 => format!("{} MiB", grouped(value / 1_048_576.0)),
            Unit::Octets if value >= 10_240.0 => format!("{} KiB", grouped(value / 1024.0)),
            Unit::Octets => grouped(value),
        }
    }
}

/// A number with as many digits as are worth reading, and commas between thousands.
fn grouped(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// Of values in order: the one in the middle, or between the two there.
pub fn median(values: &[f64]) -> f64 {
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[half - 1] + values[half]) / 2.0 } else { values[half] }
}
