//! How things are printed: colour, width, columns. Pure: what kind of screen there is comes in.

use jiff::{SignedDuration, Timestamp};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Space between two columns.
const GAP: &str = "  ";
/// Columns that a cell needs to be of any use; where there are fewer, it is left out.
const USEFUL: usize = 10;

/// The screen that is printed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Whether colours may be used.
    pub colour: bool,
    /// Columns of a terminal; `None` where there is none, and nothing is cut.
    pub width: Option<usize>,
}

impl Screen {
    /// No terminal: no colour, nothing cut.
    pub const PLAIN: Self = Self { colour: false, width: None };

    /// Paints a text.
    #[must_use]
    pub fn paint(&self, text: &str, colour: Colour) -> String {
        match colour.code() {
            Some(code) if self.colour && !text.is_empty() => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            _ => text.to_owned(),
        }
    }

    /// Cuts a line that holds no colours to the width of the terminal.
    #[must_use]
    pub fn cut(&self, line: &str) -> String {
        self.width.map_or_else(|| line.to_owned(), |width| cut(line, width))
    }

    /// Breaks a text at spaces into lines that fit beside what stands before each of them.
    #[must_use]
    pub fn wrap(&self, text: &str, before: &str) -> Vec<String> {
        let Some(width) = self.width.map(|width| width.saturating_sub(before.width()).max(USEFUL)) else {
            return vec![text.to_owned()];
        };
        let mut lines: Vec<String> = Vec::new();
        for word in text.split(' ') {
            match lines.last_mut().filter(|line| line.width() + 1 + word.width() <= width) {
                Some(line) => {
                    line.push(' ');
                    line.push_str(word);
                }
                None => lines.push(word.to_owned()),
            }
        }
        lines
    }
}

/// What a colour means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Nothing in particular.
    Plain,
    /// As it should be.
    Good,
    /// Under way, or waiting.
    Busy,
    /// Failed.
    Bad,
    /// Less important.
    Faint,
    /// A heading.
    Bold,
}

impl Colour {
    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Busy => Some("33"),
            Self::Bad => Some("31"),
            Self::Faint => Some("2"),
            Self::Bold => Some("1"),
        }
    }
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Its text.
    pub text: String,
    /// Its colour.
    pub colour: Colour,
}

impl Cell {
    /// A cell without a colour.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), colour: Colour::Plain }
    }

    /// A cell with a colour.
    pub fn painted(text: impl Into<String>, colour: Colour) -> Self {
        Self { text: text.into(), colour }
    }
}

/// Lays out a table as kubectl does: columns as wide as their widest cell, two spaces between them. What stands where the
/// terminal ends is cut, or left out.
#[must_use]
pub fn table(screen: Screen, headings: &[&str], rows: &[Vec<Cell>]) -> String {
    let heading: Vec<Cell> = headings.iter().map(|text| Cell::new(*text)).collect();
    let whole: Vec<Vec<Cell>> = std::iter::once(heading).chain(rows.iter().cloned()).collect();
    Widths::default().lay_out(screen, &whole)
}

/// The widths of columns, of a table that goes on: they grow and never shrink, so that later rows stand below earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Widths(Vec<usize>);

impl Widths {
    /// Lays out rows.
    pub fn lay_out(&mut self, screen: Screen, rows: &[Vec<Cell>]) -> String {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        self.0.resize(self.0.len().max(columns), 0);
        for row in rows {
            for (width, cell) in self.0.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        rows.iter().map(|row| self.row(screen, row)).collect()
    }

    fn row(&self, screen: Screen, row: &[Cell]) -> String {
        let mut line = String::new();
        let mut used = 0;
        for (number, (cell, width)) in row.iter().zip(&self.0).enumerate() {
            let left =
                screen.width.map(|width| width.saturating_sub(used + GAP.len() * usize::from(number > 0)));
            if number > 0 && left.is_some_and(|left| left < (*width).min(USEFUL)) {
                break;
            }
            if number > 0 {
                line.push_str(GAP);
                used += GAP.len();
            }
            let shown = left.map_or_else(|| cell.text.clone(), |left| cut(&cell.text, left));
            let padding = if number + 1 == row.len() { 0 } else { width.saturating_sub(shown.width()) };
            line.push_str(&screen.paint(&shown, cell.colour));
            line.push_str(&" ".repeat(padding));
            used += width;
        }
        format!("{}\n", line.trim_end())
    }
}

/// Cuts a text to a number of columns; a dot-dot-dot in one column says that something is missing.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut shown = String::new();
    let mut used = 1;
    for character in text.chars() {
        used += character.width().unwrap_or(0);
        if used > width {
            break;
        }
        shown.push(character);
    }
    if width > 0 {
        shown.push('…');
    }
    shown
}

/// Returns an age as kubectl shows it: `5s`, `3m`, `7h`, `12d`.
#[must_use]
pub fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    let Some(since) = since else { return "?".into() };
    span(now.duration_since(since))
}

/// Returns a span in its largest whole unit but for small ones, as kubectl does (`human-readable duration`).
#[must_use]
pub fn span(span: SignedDuration) -> String {
    let seconds = span.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_text_loses_no_word() {
        let screen = Screen { colour: false, width: Some(24) };
        let text = "Revision b was rejected (success rate 90.00% < 99%), the primary runs a.";
        let lines = screen.wrap(text, "├─ ");
        assert!(lines.len() > 3 && lines.iter().all(|line| line.width() <= 21), "{lines:?}");
        assert_eq!(lines.join(" "), text);
        assert_eq!(Screen::PLAIN.wrap(text, "├─ "), [text]);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_the_last_one_is_cut() {
        let rows = [vec![Cell::new("app"), Cell::new("waits for a gate that nobody opens")]];
        let printed = table(Screen { colour: false, width: Some(20) }, &["NAME", "MESSAGE"], &rows);
        assert_eq!(printed, "NAME  MESSAGE\napp   waits for a g…\n");
        assert_eq!(
            table(Screen::PLAIN, &["NAME", "MESSAGE"], &rows).lines().last(),
            Some("app   waits for a gate that nobody opens")
        );
    }

    #[test]
    fn a_column_without_room_is_left_out() {
        let rows = [vec![Cell::new("app"), Cell::new("waits for a gate that nobody opens")]];
        let printed = table(Screen { colour: false, width: Some(14) }, &["NAME", "MESSAGE"], &rows);
        assert_eq!(printed, "NAME\napp\n");
    }

    #[test]
    fn colour_takes_no_room() {
        let rows = [vec![Cell::painted("a", Colour::Good), Cell::new("b")]];
        let printed = table(Screen { colour: true, width: None }, &["LONG", "X"], &rows);
        assert_eq!(printed, "LONG  X\n\u{1b}[32ma\u{1b}[0m     b\n");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 6), "日本語");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn ages_are_kubectls() {
        for (seconds, shown) in
            [(0, "0s"), (119, "119s"), (120, "2m"), (10_799, "179m"), (10_800, "3h"), (172_800, "2d")]
        {
            assert_eq!(span(SignedDuration::from_secs(seconds)), shown);
        }
        assert_eq!(age(None, Timestamp::UNIX_EPOCH), "?");
    }
}
