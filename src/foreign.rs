//! Text from outside (answers of hooks, metrics servers, the API server): cut before it comes into status, Events or the log.

/// The longest text that is taken over, in bytes.
pub const LONGEST: usize = 1024;

/// Returns a text without control characters, and not longer than [`LONGEST`]; what is cut off is told by an ellipsis.
#[must_use]
pub fn cut(text: &str) -> String {
    cut_to(text, LONGEST)
}

/// The same with another length, in bytes.
#[must_use]
pub fn cut_to(text: &str, longest: usize) -> String {
    const ELLIPSIS: &str = "…";
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if plain.len() <= longest {
        return plain;
    }
    let room = longest.saturating_sub(ELLIPSIS.len());
    let ends = plain.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= room).last();
    format!("{}{ELLIPSIS}", plain.get(..ends.unwrap_or(0)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_text_stays_as_it_is() {
        assert_eq!(cut("exceeded quota: 5 of 5"), "exceeded quota: 5 of 5");
        assert_eq!(cut("a\nb\u{7}"), "a b ");
        assert_eq!(cut_to("héllo", 5), "h…");
    }

    proptest! {
        #[test]
        fn no_text_is_longer(text in any::<String>(), longest in 3..40_usize) {
            let cut = cut_to(&text, longest);
            prop_assert!(cut.len() <= longest && !cut.chars().any(char::is_control));
        }
    }
}
