//! The terminal view.

mod app;
mod draw;
mod panel;

use std::io;
use std::time::Duration;

use anyhow::Context;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::{DefaultTerminal, restore, try_init};

pub use app::{App, Flow, Panel, Side, Sort};

use crate::state::Shared;
use crate::watch::now_ms;

/// Figures are taken and drawn this often.
const TICK: Duration = Duration::from_millis(500);

/// Shows the figures until the user leaves, at first with this panel. The terminal is put back as it was, also on an error.
///
/// # Errors
/// If there is no terminal or it fails.
pub fn run(state: &Shared, title: &str, panel: Panel) -> anyhow::Result<()> {
    let mut terminal = try_init().context("there is no terminal; use --once --json in scripts")?;
    let result = show(&mut terminal, state, title, panel);
    restore();
    Ok(result?)
}

fn show(terminal: &mut DefaultTerminal, state: &Shared, title: &str, panel: Panel) -> io::Result<()> {
    let mut app = App::new(title);
    app.panel = panel;
    loop {
        app.refresh(&mut state.lock(), now_ms());
        terminal.draw(|frame| draw::draw(frame, &app))?;
        // A key is answered at once, not at the next tick.
        while event::poll(TICK)? {
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                if app.handle_key(key) == Flow::Quit {
                    return Ok(());
                }
                app.refresh(&mut state.lock(), now_ms());
            }
            terminal.draw(|frame| draw::draw(frame, &app))?;
        }
    }
}
