//! Amounts of memory: parsing and printing.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A number of bytes; prints with a binary unit and parses `8GiB`, `512MiB`, `2G`, `1048576`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Text that is no amount of memory.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no amount of memory; write a positive number and a unit, as 8GiB, 512MiB or 4GB")]
pub struct ByteSizeError(pub String);

/// Names and sizes of the units that [`ByteSize`] understands.
const UNITS: [(&str, u64); 13] = [
    ("tib", 1 << 40),
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("tb", 1_000_000_000_000),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("t", 1 << 40),
    ("g", 1 << 30),
    ("m", 1 << 20),
    ("k", 1 << 10),
    ("b", 1),
];

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ByteSizeError(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let (digits, unit) = UNITS
            .iter()
            .find_map(|(name, size)| lower.strip_suffix(name).map(|digits| (digits.trim(), *size)))
            .unwrap_or((lower.as_str(), 1));
        let number: f64 = digits.parse().map_err(|_| refuse())?;
        let bytes = number * unit as f64;
        if !(bytes >= 1.0 && bytes < 2f64.powi(63)) {
            return Err(refuse());
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS[..4].iter().find(|(_, size)| self.0 >= *size) {
            Some((name, size)) => {
                let name = name.to_uppercase().replace('I', "i");
                write!(f, "{:.1} {name}", self.0 as f64 / *size as f64)
            }
            None => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_units() {
        assert_eq!("8GiB".parse(), Ok(ByteSize(8 << 30)));
        assert_eq!("1.5 MiB".parse(), Ok(ByteSize(3 << 19)));
        assert_eq!("4GB".parse(), Ok(ByteSize(4_000_000_000)));
        assert_eq!("2g".parse(), Ok(ByteSize(2 << 30)));
        assert_eq!("4096".parse(), Ok(ByteSize(4096)));
        for bad in ["", "GiB", "-1GiB", "0", "nanGiB", "1e30GiB", "8 apples"] {
            assert_eq!(bad.parse::<ByteSize>(), Err(ByteSizeError(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn prints_units() {
        assert_eq!(ByteSize(3 << 29).to_string(), "1.5 GiB");
        assert_eq!(ByteSize(12).to_string(), "12 B");
    }
}
