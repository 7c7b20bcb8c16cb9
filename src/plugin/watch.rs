//! A release full-screen, with a key for each verb.

use super::ask::Ask;
use super::connection::Connection;
use super::look::Name;
use super::screen::{Colour, Screen};
use super::tree::{Tree, draw};
use super::{DONE, view};
use crate::api::Verb;
use crate::clock;
use anyhow::bail;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute, queue, style};
use futures::StreamExt as _;
use jiff::Timestamp;
use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Lines that a page key scrolls.
const PAGE: isize = 10;
/// Time between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// The keys, as the last line shows them; it has room in 80 columns.
const KEYS: &str = "p promote  a abort  t retry  s skip  space pause  y approve  r restart  q quit";

/// Raw mode and the other screen, until this value goes: also after an error or a panic.
struct Terminal;

impl Terminal {
    fn enter() -> anyhow::Result<Self> {
        terminal::enable_raw_mode()?;
        let guard = Self;
        // A panic is told on the screen that stays.
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            Self::leave();
            before(panic);
        }));
        execute!(stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(guard)
    }
}

impl Terminal {
    /// Nothing can be done about a terminal that is gone.
    fn leave() {
        let _ = execute!(stdout(), LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        Self::leave();
    }
}

/// What is shown.
struct Show {
    tree: Option<Tree>,
    /// The verb that is to be confirmed, and its revision.
    asks: Option<(Verb, String)>,
    /// The last answer or error.
    said: String,
    /// Lines of the tree, below its first one, that are scrolled past.
    top: usize,
}

/// What a key does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Quit,
    Ask(Verb),
    /// So many lines down, or up.
    Scroll(isize),
    Confirm,
    Cancel,
    Nothing,
}

fn action(key: KeyEvent, confirming: bool, paused: bool) -> Action {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if key.code == KeyCode::Char('c') { Action::Quit } else { Action::Nothing };
    }
    match (confirming, key.code) {
        (true, KeyCode::Char('y') | KeyCode::Enter) => Action::Confirm,
        (true, _) => Action::Cancel,
        (false, KeyCode::Char('q') | KeyCode::Esc) => Action::Quit,
        (false, KeyCode::Char('p')) => Action::Ask(Verb::Promote),
        (false, KeyCode::Char('a')) => Action::Ask(Verb::Abort),
        (false, KeyCode::Char('t')) => Action::Ask(Verb::Retry),
        (false, KeyCode::Char('s')) => Action::Ask(Verb::Skip),
        (false, KeyCode::Char(' ')) => Action::Ask(if paused { Verb::Resume } else { Verb::Pause }),
        (false, KeyCode::Char('y')) => Action::Ask(Verb::Approve),
        (false, KeyCode::Char('r')) => Action::Ask(Verb::Restart),
        (false, KeyCode::Char('j') | KeyCode::Down) => Action::Scroll(1),
        (false, KeyCode::Char('k') | KeyCode::Up) => Action::Scroll(-1),
        (false, KeyCode::PageDown) => Action::Scroll(PAGE),
        (false, KeyCode::PageUp) => Action::Scroll(-PAGE),
        (false, _) => Action::Nothing,
    }
}

/// Shows a release until it is left.
pub(crate) async fn run(name: &Name, at: &Connection) -> anyhow::Result<u8> {
    if !stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!(
            "watch needs a terminal; use kubectl sidetrack status {} -n {} --wait",
            name.name,
            at.namespace
        );
    }
    // Before the screen changes, so that a name that does not exist is an ordinary error.
    let tree = at.tree(&name.name).await?;
    let colour = super::screen().colour;
    let _terminal = Terminal::enter()?;
    let mut show = Show { tree: Some(tree), asks: None, said: String::new(), top: 0 };
    let mut keys = EventStream::new();
    let mut ended = signal(SignalKind::terminate())?;
    loop {
        paint(&mut show, colour)?;
        tokio::select! {
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                    let paused = show.tree.as_ref().is_some_and(is_paused);
                    match action(key, show.asks.is_some(), paused) {
                        Action::Quit => return Ok(DONE),
                        Action::Ask(verb) => ask(&mut show, verb),
                        Action::Scroll(lines) => show.top = show.top.saturating_add_signed(lines),
                        Action::Cancel => show.asks = None,
                        Action::Confirm => confirm(name, at, &mut show).await,
                        Action::Nothing => {}
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(DONE),
            },
            _ = ended.recv() => return Ok(DONE),
            () = tokio::time::sleep(PAUSE) => match at.tree(&name.name).await {
                Ok(tree) => show.tree = Some(tree),
                Err(error) => show.said = format!("{error:#}"),
            },
        }
    }
}

fn is_paused(tree: &Tree) -> bool {
    view::status(&tree.canary).run.is_some_and(|run| run.paused)
}

fn ask(show: &mut Show, verb: Verb) {
    let meant = show.tree.as_ref().and_then(|tree| super::ask::meant(&tree.canary, verb));
    match meant {
        Some(revision) => show.asks = Some((verb, revision)),
        None => show.said = "there is no revision yet".into(),
    }
}

/// The request is for the revision that was on the screen when it was asked for.
async fn confirm(name: &Name, at: &Connection, show: &mut Show) {
    let Some((verb, revision)) = show.asks.take() else { return };
    let ask = Ask {
        name: name.name.clone(),
        reason: "asked in kubectl sidetrack watch".into(),
        revision: Some(revision.clone()),
        timeout: Duration::ZERO,
    };
    show.said = match ask.send(at, verb).await {
        Ok(_) => format!("{verb} of revision {revision} sent; the answer stands above"),
        Err(error) => format!("{error:#}"),
    };
}

/// The lines of the screen: the tree's first, as many of the others as there is room for from where it is scrolled to, and
/// two lines below them.
fn lines(show: &mut Show, now: Timestamp, colour: bool, (width, height): (usize, usize)) -> Vec<String> {
    let screen = Screen { colour, width: Some(width) };
    let tree = show.tree.as_ref().map_or_else(String::new, |tree| draw(screen, tree, now));
    let room = height.saturating_sub(2);
    let mut lines: Vec<String> = tree.lines().map(str::to_owned).collect();
    let hidden = lines.len().saturating_sub(room);
    if hidden > 0 && room > 2 {
        // One line more goes, for the one that says so.
        show.top = show.top.min(hidden + 1);
        let below = hidden + 1 - show.top;
        lines.drain(1..=show.top);
        lines.truncate(room - 1);
        let text = match (show.top, below) {
            (0, below) => format!("… {below} lines below: j and k, or the arrows, scroll"),
            (above, 0) => format!("… {above} lines above: j and k, or the arrows, scroll"),
            (above, below) => format!("… {above} lines above, {below} below: j and k, or the arrows, scroll"),
        };
        lines.push(screen.paint(&screen.cut(&text), Colour::Faint));
    } else {
        show.top = 0;
    }
    lines.resize(room, String::new());
    let said = match &show.asks {
        Some((verb, revision)) => format!("{verb} revision {revision}? y/n"),
        None => show.said.clone(),
    };
    lines.push(screen.paint(&screen.cut(&said), Colour::Bold));
    lines.push(screen.paint(&screen.cut(KEYS), Colour::Faint));
    lines.truncate(height);
    lines
}

fn paint(show: &mut Show, colour: bool) -> anyhow::Result<()> {
    let (width, height) = terminal::size()?;
    let mut out = stdout().lock();
    for (row, line) in
        (0u16..).zip(lines(show, clock::now(), colour, (usize::from(width), usize::from(height))))
    {
        queue!(out, cursor::MoveTo(0, row), style::Print(line), Clear(ClearType::UntilNewLine))?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_verbs_and_each_is_confirmed() {
        let key = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE);
        let mut verbs: Vec<Verb> = "patsyr"
            .chars()
            .map(|c| match action(key(c), false, false) {
                Action::Ask(verb) => verb,
                other => panic!("{c}: {other:?}"),
            })
            .collect();
        for paused in [false, true] {
            let Action::Ask(verb) = action(key(' '), false, paused) else { panic!("space") };
            verbs.push(verb);
        }
        verbs.sort();
        assert_eq!(verbs, {
            let mut all = Verb::ALL.to_vec();
            all.sort();
            all
        });
        assert_eq!(action(key('y'), true, false), Action::Confirm);
        assert_eq!(action(key('p'), true, false), Action::Cancel);
    }

    #[test]
    fn what_matters_is_seen_first_in_a_low_window_and_the_rest_by_scrolling() {
        let (tree, now) = crate::plugin::tests::crowded();
        let mut show = Show { tree: Some(tree), asks: None, said: String::new(), top: 0 };
        let mut screen = |top: usize| {
            show.top = top;
            let lines = lines(&mut show, now, false, (80, 24));
            assert_eq!(lines.len(), 24);
            assert!(lines.iter().all(|line| line.chars().count() <= 80));
            (lines.join("\n"), show.top)
        };
        let (first, _) = screen(0);
        insta::assert_snapshot!("watch_80x24", first);
        let (last, top) = screen(usize::MAX);
        insta::assert_snapshot!("watch_80x24_scrolled", last);
        assert_eq!(screen(top).0, last, "no further than the end");
    }

    #[test]
    fn keys_scroll_unless_something_is_asked() {
        let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
        for (code, lines) in [
            (KeyCode::Char('j'), 1),
            (KeyCode::Down, 1),
            (KeyCode::Char('k'), -1),
            (KeyCode::Up, -1),
            (KeyCode::PageDown, PAGE),
            (KeyCode::PageUp, -PAGE),
        ] {
            assert_eq!(action(key(code), false, false), Action::Scroll(lines));
            assert_eq!(action(key(code), true, false), Action::Cancel);
        }
    }

    #[test]
    fn ctrl_c_leaves_whatever_is_asked() {
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(action(ctrl_c, true, false), Action::Quit);
        assert_eq!(action(ctrl_c, false, false), Action::Quit);
    }
}
