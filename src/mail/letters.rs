//! Which letters of others must not reach a person's eye as they are: in a report, a log line, a reply or a terminal.
//!
//! Each place shows another sign for them; which they are is decided here alone. Never fails.

/// Whether a letter breaks a line, is obeyed by a terminal, turns the direction of writing, or can't be seen at all.
/// Accents that stand for themselves are letters like others.
pub fn is_misleading(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_eye_sees_is_told_from_letters() {
        let misleading = "\0\t\r\n\u{1b}\u{7f}\u{85}\u{9b}\u{ad}\u{61c}\u{180e}\u{200b}\u{200d}\u{200f}\u{2028}\u{2029}\u{202e}\
                          \u{2060}\u{2066}\u{2069}\u{feff}\u{fffa}\u{e0001}\u{e0041}";
        assert!(misleading.chars().all(is_misleading));
        assert!(!" aäßé日本e\u{301}€😀\u{fffd}\u{a0}".chars().any(is_misleading));
    }
}
