//! Octets as tests write them in text.

/// Reads `\r`, `\n`, `\0`, `\xNN` and `\\` as in C.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('r') => octets.push(b'\r'),
                Some('n') => octets.push(b'\n'),
                Some('0') => octets.push(0),
                Some('x') => {
                    let digits: String = letters.by_ref().take(2).collect();
                    octets.push(u8::from_str_radix(&digits, 16).expect("two digits"));
                }
                other => octets.extend(other.unwrap_or('\\').to_string().bytes()),
            },
            letter => octets.extend(letter.to_string().bytes()),
        }
    }
    octets
}
