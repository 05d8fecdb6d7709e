//! Octets as a network gives them: in pieces of any size, chosen by the fuzzer's own octets so that a find repeats.

use std::io::{self, Read};

/// How a stream is cut.
#[derive(Clone, Copy)]
pub enum Cut {
    /// Not at all.
    Whole,
    /// Into pieces of so many octets.
    Every(usize),
    /// Into pieces of one to eight octets, or now and then of many, as this number has it.
    By(u64),
}

impl Cut {
    /// The cut that an octet chooses.
    pub fn chosen(by: u8) -> Cut {
        if by < 8 { Cut::Every(usize::from(by) + 1) } else { Cut::By(u64::from(by) << 32 | 0x9E37_79B9) }
    }
}

/// Reads from octets, a piece at a time.
pub struct Pieces<'a> {
    rest: &'a [u8],
    cut: Cut,
}

impl<'a> Pieces<'a> {
    pub fn of(octets: &'a [u8], cut: Cut) -> Pieces<'a> {
        Pieces { rest: octets, cut }
    }

    fn size(&mut self) -> usize {
        match &mut self.cut {
            Cut::Whole => usize::MAX,
            Cut::Every(size) => *size,
            Cut::By(state) => {
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                let size = usize::try_from(*state % 9).unwrap_or(1);
                if size == 0 { 700 } else { size }
            }
        }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let (piece, rest) = self.rest.split_at(self.size().min(self.rest.len()));
        self.rest = rest;
        Some(piece)
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.size().min(self.rest.len()).min(out.len());
        out[..count].copy_from_slice(&self.rest[..count]);
        self.rest = &self.rest[count..];
        Ok(count)
    }
}
