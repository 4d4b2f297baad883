//! The report as one self-contained page: no script, no network, light and dark.
//!
//! Every text that comes from the model goes through [`escape`]; the rest of the markup is fixed.

mod lanes;
mod page;
mod plot;
mod tables;
#[cfg(test)]
mod tests;

pub use page::page;

/// Text as HTML text or as the value of a quoted attribute. Control characters, which HTML does not allow, are shown as
/// the replacement character.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for symbol in text.chars() {
        match symbol {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
