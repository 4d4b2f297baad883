//! Lines and a cursor over one line: the reader's only primitives.

use std::fmt;
use std::str::FromStr;

use peregrine_ckks::units::{Level, Scale};
use thiserror::Error;

use crate::consts::ConstId;
use crate::entity::EntityId;

/// What a reader looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This very text.
    Literal(&'static str),
    /// An id with this prefix.
    Id(&'static str),
    /// The next id of its kind: ids are dense and in order.
    NextId(&'static str),
    /// An integer in range.
    Integer,
    /// A floating-point number.
    Number,
    /// A quoted string.
    Quoted,
    /// A bare or quoted name.
    Name,
    /// A scale such as `2^40*q3^-1`.
    Scale,
    /// A stage of the level.
    Stage,
    /// An operation or instruction.
    Operation,
    /// An element type, `f32` or `f64`.
    ElementType,
    /// A digit of a layout, such as `28@s32`.
    Digit,
    /// A power of two.
    PowerOfTwo,
    /// An odd number.
    GaloisElement,
    /// A prime, `1152921504606830593` or `50b`.
    Prime,
    /// The end of the line.
    End,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => write!(f, "`{text}`"),
            Self::Id(prefix) => write!(f, "an id such as `{prefix}0`"),
            Self::NextId(prefix) => write!(f, "the next id of the kind `{prefix}0`"),
            Self::Integer => f.write_str("an integer in range"),
            Self::Number => f.write_str("a number"),
            Self::Quoted => f.write_str("a quoted string"),
            Self::Name => f.write_str("a name"),
            Self::Scale => f.write_str("a scale such as `2^40*q3^-1`"),
            Self::Stage => f.write_str("a stage"),
            Self::Operation => f.write_str("an operation"),
            Self::ElementType => f.write_str("`f32` or `f64`"),
            Self::Digit => f.write_str("a layout digit such as `28@s32`"),
            Self::PowerOfTwo => f.write_str("a power of two"),
            Self::GaloisElement => f.write_str("an odd Galois element"),
            Self::Prime => f.write_str("a prime such as `50b` or `1125899906826241`"),
            Self::End => f.write_str("the end of the line"),
        }
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum TextProblem {
    /// Something else is there.
    #[error("expected {expected} at `{found}`")]
    Expected {
        /// Looked for.
        expected: Expected,
        /// Rest of the line.
        found: String,
    },
    /// A constant is not in the side table.
    #[error("{0} is not in the constant pool that was given")]
    UnknownConst(ConstId),
    /// A constant of the side table is another one.
    #[error("{constant} of the constant pool is {found}, the text states {stated}")]
    ConstDiffers {
        /// The constant.
        constant: ConstId,
        /// In the text.
        stated: String,
        /// In the pool.
        found: String,
    },
    /// A map of one coordinate is no valid one.
    #[error("{0}")]
    Axis(crate::axis::AxisError),
    /// The text ends before the first line of the level.
    #[error("empty text")]
    Empty,
}

/// Why text does not read.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("line {line}: {problem}")]
pub struct TextError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: TextProblem,
}

type Result<T> = std::result::Result<T, TextError>;

/// The lines of a text that hold something.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Cursor<'_>> {
    let numbered = text.lines().enumerate().map(|(i, line)| Cursor { line: i + 1, rest: line.trim() });
    numbered.filter(|cursor| !cursor.rest.is_empty())
}

/// The unread part of a line.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    line: usize,
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// The first line, or an error.
    pub(super) fn first(lines: &mut impl Iterator<Item = Cursor<'a>>) -> Result<Self> {
        lines.next().ok_or(TextError { line: 1, problem: TextProblem::Empty })
    }

    pub(super) fn problem(&self, problem: TextProblem) -> TextError {
        TextError { line: self.line, problem }
    }

    pub(super) fn expected(&self, expected: Expected) -> TextError {
        let rest = self.rest.trim_start();
        let found = if rest.is_empty() { "end of line".into() } else { rest.chars().take(40).collect() };
        self.problem(TextProblem::Expected { expected, found })
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Reads `text` if it comes next. Text that is a word must end there.
    pub(super) fn eat(&mut self, text: &str) -> bool {
        self.skip_space();
        let Some(rest) = self.rest.strip_prefix(text) else { return false };
        let word = text.ends_with(is_word);
        if word && rest.starts_with(is_word) {
            return false;
        }
        self.rest = rest;
        true
    }

    pub(super) fn literal(&mut self, text: &'static str) -> Result<()> {
        if self.eat(text) { Ok(()) } else { Err(self.expected(Expected::Literal(text))) }
    }

    pub(super) fn end(&mut self) -> Result<()> {
        self.skip_space();
        if self.rest.is_empty() { Ok(()) } else { Err(self.expected(Expected::End)) }
    }

    fn take(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        self.skip_space();
        let end = self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// A run of letters, digits and `_`.
    pub(super) fn word(&mut self) -> &'a str {
        self.take(is_word)
    }

    /// A value of characters that `keep` admits, or an error with the cursor left where it was.
    fn read<T: FromStr>(&mut self, expected: Expected, keep: impl Fn(char) -> bool) -> Result<T> {
        let before = *self;
        let text = self.take(keep);
        text.parse().map_err(|_| before.expected(expected))
    }

    pub(super) fn integer<T: FromStr>(&mut self) -> Result<T> {
        self.read(Expected::Integer, |c| c.is_ascii_digit())
    }

    pub(super) fn signed(&mut self) -> Result<i32> {
        self.read(Expected::Integer, |c| c.is_ascii_digit() || c == '-')
    }

    /// A `-` that stands alone: an empty list.
    pub(super) fn eat_none(&mut self) -> bool {
        let rest = self.rest.trim_start();
        match rest.strip_prefix('-') {
            Some(after) if !after.starts_with(|c: char| c.is_ascii_digit()) => {
                self.rest = after;
                true
            }
            _ => false,
        }
    }

    pub(super) fn number<T: FromStr>(&mut self) -> Result<T> {
        self.read(Expected::Number, |c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    }

    pub(super) fn level(&mut self) -> Result<Level> {
        Ok(Level(self.integer()?))
    }

    pub(super) fn scale(&mut self) -> Result<Scale> {
        self.read(Expected::Scale, |c| c.is_ascii_alphanumeric() || "^*-".contains(c))
    }

    /// Whether an id of this prefix comes next.
    pub(super) fn at_id(&self, prefix: &str) -> bool {
        let rest = self.rest.trim_start();
        rest.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    }

    pub(super) fn id<K: EntityId>(&mut self, prefix: &'static str) -> Result<K> {
        let before = *self;
        let number = self.word().strip_prefix(prefix).and_then(|digits| digits.parse::<u32>().ok());
        number.map(|n| K::new(n as usize)).ok_or_else(|| before.expected(Expected::Id(prefix)))
    }

    /// `prefix<next> =`
    pub(super) fn definition(&mut self, prefix: &'static str, next: usize) -> Result<()> {
        let before = *self;
        let digits = self.word().strip_prefix(prefix);
        if digits.and_then(|d| d.parse().ok()) != Some(next) {
            return Err(before.expected(Expected::NextId(prefix)));
        }
        self.literal("=")
    }

    /// `key=`
    pub(super) fn key(&mut self, key: &'static str) -> Result<()> {
        self.literal(key)?;
        self.literal("=")
    }

    /// Items separated by commas, at least one.
    pub(super) fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.eat(",") {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// `AxB...`
    pub(super) fn extents<T: FromStr>(&mut self) -> Result<Vec<T>> {
        let mut extents = vec![self.integer()?];
        while let Some(rest) = self.rest.strip_prefix('x') {
            self.rest = rest;
            extents.push(self.integer()?);
        }
        Ok(extents)
    }

    /// `AxB...` with exactly N extents.
    pub(super) fn fixed_extents<T: FromStr, const N: usize>(&mut self) -> Result<[T; N]> {
        let before = *self;
        self.extents()?.try_into().map_err(|_| before.expected(Expected::Integer))
    }

    /// A quoted string.
    pub(super) fn quoted(&mut self) -> Result<String> {
        self.skip_space();
        let before = *self;
        let error = || before.expected(Expected::Quoted);
        let mut chars = self.rest.strip_prefix('"').ok_or_else(error)?.chars();
        let mut text = String::new();
        loop {
            match chars.next().ok_or_else(error)? {
                '"' => break,
                '\\' => text.push(unescape(&mut chars).ok_or_else(error)?),
                other => text.push(other),
            }
        }
        self.rest = chars.as_str();
        Ok(text)
    }

    /// `@name` or `@"a name"`.
    pub(super) fn name(&mut self) -> Result<String> {
        self.literal("@")?;
        if self.rest.starts_with('"') {
            return self.quoted();
        }
        let name = self.take(is_bare);
        if name.is_empty() { Err(self.expected(Expected::Name)) } else { Ok(name.to_owned()) }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_bare(c: char) -> bool {
    is_word(c) || c == '-' || c == '.'
}

/// The character of the escape sequence after a backslash.
fn unescape(chars: &mut std::str::Chars<'_>) -> Option<char> {
    match chars.next()? {
        'u' => {
            let (digits, rest) = chars.as_str().strip_prefix('{')?.split_once('}')?;
            *chars = rest.chars();
            char::from_u32(u32::from_str_radix(digits, 16).ok()?)
        }
        c @ ('"' | '\\') => Some(c),
        _ => None,
    }
}

/// Prints a quoted string. Whatever could break a line is escaped.
pub(super) struct Quote<'a>(pub(super) &'a str);

impl fmt::Display for Quote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() || c.is_whitespace() && c != ' ' => {
                    write!(f, "\\u{{{:x}}}", u32::from(c))?
                }
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

/// Prints the name of a graph or program.
pub(super) struct Name<'a>(pub(super) &'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.chars().all(is_bare) {
            write!(f, "@{}", self.0)
        } else {
            write!(f, "@{}", Quote(self.0))
        }
    }
}

/// Prints items with a separator.
pub(super) struct Join<'a, T>(pub(super) &'a [T], pub(super) &'static str);

impl<T: fmt::Display> fmt::Display for Join<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, item) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(self.1)?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}
