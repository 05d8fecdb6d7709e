//! The structure of a message as it streams past: which octets are header, content of a part, or the frame around it
//! (RFC 2046 §5.1).
//!
//! A boundary of any open multipart ends all that is inside it. After its last boundary a multipart is closed, and the
//! same line means nothing more. The walk is the same however the message is cut into blocks. It never fails: where
//! readers may differ about the structure, a doubt is noted. Memory is bounded by [`limits::MIME_DEPTH`] boundaries.

use super::lines::{End, Lines, Piece};
use super::part::{Encoding, Fields, Kind};
use crate::limits;
use crate::mail::header;

/// What the walk meets. All octets of the message stand in one of these, but for the CR LF of [`Event::LineEnd`] and of
/// [`HeaderEnd::EmptyLine`].
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// A part or a message begins, the whole message first.
    Begin,
    /// Octets of its header, and whether they belong to Content-Transfer-Encoding.
    Header(&'a [u8], bool),
    /// Its header ended, in this way.
    Body(&'a Part, HeaderEnd),
    /// Octets of the content of a part that has no parts.
    Text(&'a [u8]),
    /// A line end in it.
    LineEnd,
    /// Its content ended; whether it was all that there was, with the last line end.
    End(bool),
    /// Octets around parts: boundaries with their line ends, and what stands before the first and after the last.
    Frame(&'a [u8]),
}

/// How a header ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderEnd {
    /// With an empty line.
    EmptyLine,
    /// With a line that is no field, and belongs to the body.
    Body,
    /// With a boundary, or the end of the message: there is no body.
    Nothing,
}

/// What its header and what is around it say about a part.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) kind: Kind,
    pub(super) encoding: Encoding,
    /// Whether it is a message, whole or inside.
    pub(super) is_message: bool,
    /// Whether a signature or a key covers it.
    pub(super) is_sealed: bool,
    /// The number of the message that it is, or is in.
    pub(super) message: usize,
    pub(super) has_type: bool,
    pub(super) has_version: bool,
}

/// What a part takes from what is around it.
#[derive(Clone, Copy, Debug, Default)]
struct Around {
    is_sealed: bool,
    is_digest: bool,
    message: usize,
    depth: usize,
}

/// An open multipart.
#[derive(Debug)]
struct Level {
    boundary: Vec<u8>,
    around: Around,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Header,
    Content,
    Frame,
}

/// A walk through one message.
#[derive(Debug, Default)]
pub(super) struct Walk {
    lines: Lines,
    tree: Tree,
}

impl Walk {
    /// Takes the next octets.
    pub(super) fn feed(&mut self, octets: &[u8], visit: &mut impl FnMut(Event<'_>)) {
        let Walk { lines, tree } = self;
        lines.feed(octets, &mut |piece| tree.take(piece, visit));
    }

    /// Says that the last octet was taken.
    pub(super) fn finish(&mut self, visit: &mut impl FnMut(Event<'_>)) {
        let Walk { lines, tree } = self;
        lines.finish(&mut |piece| tree.take(piece, visit));
        tree.begin_message(visit);
        // Where a multipart was never closed, its last boundary is missing, and the line end before it is not.
        let is_closed = tree.open.is_empty();
        if is_closed {
            tree.release_line_end(visit);
        }
        tree.end_part(is_closed, visit);
        tree.release_frame_end(visit);
    }

    /// What makes readers differ about the structure.
    pub(super) fn doubt(&self) -> Option<&'static str> {
        let bare = self.lines.has_bare_end.then_some("a CR or an LF stands alone");
        bare.or(self.tree.doubt)
    }
}

#[derive(Debug, Default)]
struct Tree {
    /// Outermost first.
    open: Vec<Level>,
    place: Place,
    /// How many parts have begun.
    parts: usize,
    /// The header being read.
    fields: Fields,
    /// Around the part being read.
    around: Around,
    is_message: bool,
    /// Whether a line end is still to be given: before a boundary it belongs to that.
    is_line_end_held: bool,
    doubt: Option<&'static str>,
}

impl Tree {
    fn take(&mut self, piece: Piece<'_>, visit: &mut impl FnMut(Event<'_>)) {
        self.begin_message(visit);
        if piece.is_first {
            if let Some((level, is_last)) = piece.whole_line().and_then(|line| self.boundary(line)) {
                return self.cross(level, is_last, piece, visit);
            }
            self.release_line_end(visit);
        }
        // A line that is no field ends a header, and may be the first of a message inside.
        while self.place == Place::Header {
            if self.header(piece, visit) {
                return;
            }
        }
        self.is_line_end_held = piece.end == End::Line;
        visit(if self.place == Place::Content { Event::Text(piece.octets) } else { Event::Frame(piece.octets) });
    }

    fn begin_message(&mut self, visit: &mut impl FnMut(Event<'_>)) {
        if self.parts == 0 {
            self.begin(Around::default(), true, visit);
        }
    }

    fn begin(&mut self, around: Around, is_message: bool, visit: &mut impl FnMut(Event<'_>)) {
        self.fields = Fields::default();
        self.around = around;
        self.is_message = is_message;
        if is_message {
            self.around = Around { message: self.parts, is_digest: false, ..around };
        }
        self.parts += 1;
        self.place = Place::Header;
        visit(Event::Begin);
    }

    fn release_line_end(&mut self, visit: &mut impl FnMut(Event<'_>)) {
        if std::mem::take(&mut self.is_line_end_held) {
            visit(if self.place == Place::Content { Event::LineEnd } else { Event::Frame(b"\r\n") });
        }
    }

    /// The line end is the boundary's.
    fn release_frame_end(&mut self, visit: &mut impl FnMut(Event<'_>)) {
        if std::mem::take(&mut self.is_line_end_held) {
            visit(Event::Frame(b"\r\n"));
        }
    }

    /// Takes a piece of the header. `false` if the header ended before it.
    fn header(&mut self, piece: Piece<'_>, visit: &mut impl FnMut(Event<'_>)) -> bool {
        if piece.is_first {
            if piece.octets.is_empty() {
                self.end_header(HeaderEnd::EmptyLine, visit);
                return true;
            }
            let start = &piece.octets[..piece.octets.len().min(limits::TEXT_LINE)];
            match header::name_end(start) {
                _ if matches!(start, [b' ' | b'\t', ..]) => {
                    if !self.fields.has_begun() {
                        self.note("a header begins with a blank");
                    }
                    self.fields.extend(piece.octets);
                }
                Some(colon) => {
                    self.fields.begin(start[..colon].trim_ascii_end());
                    self.fields.extend(&piece.octets[colon + 1..]);
                }
                None => {
                    self.end_header(HeaderEnd::Body, visit);
                    return false;
                }
            }
        } else {
            self.fields.extend(piece.octets);
        }
        visit(Event::Header(piece.octets, self.fields.is_encoding()));
        if piece.end == End::Line {
            visit(Event::Header(b"\r\n", self.fields.is_encoding()));
        }
        true
    }

    fn end_header(&mut self, end: HeaderEnd, visit: &mut impl FnMut(Event<'_>)) {
        let fields = std::mem::take(&mut self.fields);
        let (mut kind, is_sealed) = fields.kind(self.around.is_digest);
        if let Some(doubt) = fields.doubt {
            self.note(doubt);
        }
        if matches!(kind, Kind::Multipart { .. } | Kind::Message) {
            if end == HeaderEnd::Body {
                self.note("no empty line ends the header above a multipart or a message inside");
            }
            if self.around.depth >= limits::MIME_DEPTH {
                kind = Kind::Closed("its parts are nested too deep");
                self.note("its parts are nested too deep");
            }
        }
        let part = Part {
            kind,
            encoding: fields.encoding(),
            is_message: self.is_message,
            is_sealed: self.around.is_sealed || is_sealed || fields.is_signed,
            message: self.around.message,
            has_type: fields.has_type(),
            has_version: fields.has_version,
        };
        visit(Event::Body(&part, end));
        self.place = Place::Content;
        if end == HeaderEnd::Nothing {
            return;
        }
        let inside =
            Around { is_sealed: part.is_sealed, is_digest: false, depth: self.around.depth + 1, ..self.around };
        match part.kind {
            Kind::Multipart { boundary, is_digest } => {
                if self.open.iter().any(|level| are_alike(&level.boundary, &boundary)) {
                    self.note("two multiparts, one in the other, have boundaries that can't be told apart");
                }
                self.open.push(Level { boundary, around: Around { is_digest, ..inside } });
                self.place = Place::Frame;
            }
            Kind::Message => self.begin(inside, true, visit),
            Kind::Text | Kind::Other | Kind::Closed(_) => {}
        }
    }

    fn end_part(&mut self, is_last: bool, visit: &mut impl FnMut(Event<'_>)) {
        if self.place == Place::Header {
            self.end_header(HeaderEnd::Nothing, visit);
        }
        if self.place == Place::Content {
            visit(Event::End(is_last));
        }
    }

    /// The multipart whose boundary this line is, and whether it is the last one.
    fn boundary(&self, line: &[u8]) -> Option<(usize, bool)> {
        let named = line.strip_prefix(b"--")?;
        let named = &named[..named.iter().rposition(|octet| !b" \t".contains(octet))? + 1];
        let closed = named.strip_suffix(b"--");
        self.open.iter().enumerate().find_map(|(at, level)| match () {
            () if named == level.boundary => Some((at, false)),
            () if closed == Some(&level.boundary) => Some((at, true)),
            () => None,
        })
    }

    fn cross(&mut self, level: usize, is_last: bool, piece: Piece<'_>, visit: &mut impl FnMut(Event<'_>)) {
        self.end_part(false, visit);
        self.release_frame_end(visit);
        visit(Event::Frame(piece.octets));
        if piece.end == End::Line {
            visit(Event::Frame(b"\r\n"));
        }
        self.open.truncate(level + 1);
        match self.open.last().map(|level| level.around) {
            Some(around) if !is_last => self.begin(around, false, visit),
            _ => {
                self.open.truncate(level);
                self.place = Place::Frame;
            }
        }
    }

    fn note(&mut self, doubt: &'static str) {
        self.doubt = self.doubt.or(Some(doubt));
    }
}

/// Whether one line could be a boundary of both.
fn are_alike(one: &[u8], other: &[u8]) -> bool {
    one == other || one.strip_suffix(b"--") == Some(other) || other.strip_suffix(b"--") == Some(one)
}
