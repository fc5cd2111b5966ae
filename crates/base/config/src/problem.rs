//! What is wrong with a configuration, with places and hints.

use std::fmt;
use std::ops::Range;

use alarm::Code;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::secrets;

/// Longest line that is shown, in bytes; of a longer one only the place is told.
const SHOWN_LINE_BYTES_MAX: usize = 400;
/// Most problems that are kept: a file of another kind would fill the screen.
const PROBLEMS_MAX: usize = 100;

/// Where a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the file; both count from 1, the column in characters.
    Line {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// The file as a whole: it cannot be read.
    File,
    /// An option of the command line, such as `--port`.
    Option(&'static str),
    /// The environment that the relay was started in.
    Environment,
}

/// One thing that has to be changed before the relay can start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// The bytes of the source that a caret goes under; empty outside of the file.
    span: Range<usize>,
}

/// Every problem of a configuration, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// What was found, at least one and at most a hundred.
    pub problems: Vec<Problem>,
    /// How many more problems there are than `problems` holds.
    pub omitted: usize,
    file: String,
    source: String,
}

impl Problem {
    /// A problem outside of the text of the file.
    pub(crate) fn at(place: Place, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { place, message: message.into(), hint: hint.into(), span: 0..0 }
    }
}

/// Collects problems while the text of a file is read.
#[derive(Debug)]
pub(crate) struct Problems<'a> {
    file: &'a str,
    source: &'a str,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(crate) fn new(file: &'a str, source: &'a str) -> Self {
        Self { file, source, found: Vec::new() }
    }

    /// Notes a problem at these bytes of the source.
    pub(crate) fn add(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        // The place is worked out for the few that are kept: it costs a pass over the text.
        let place = Place::Line { line: 1, column: 1 };
        let (message, hint) = (message.into(), hint.into());
        self.found.push(Problem { place, message, hint, span: span.clone() });
    }

    /// Have so many been noted that no care need be taken of the next one's hint?
    pub(crate) fn are_many(&self) -> bool {
        self.found.len() > PROBLEMS_MAX
    }

    /// Notes a problem outside of the text.
    pub(crate) fn add_at(
        &mut self,
        place: Place,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.found.push(Problem::at(place, message, hint));
    }

    /// `checked`, when nothing was found.
    pub(crate) fn finish<T>(self, checked: Option<T>) -> Result<T, ConfigError> {
        match checked {
            Some(checked) if self.found.is_empty() => Ok(checked),
            _ => Err(self.into_error()),
        }
    }

    fn into_error(self) -> ConfigError {
        let mut problems = self.found;
        let outside = |problem: &Problem| !matches!(problem.place, Place::Line { .. });
        problems.sort_by_key(|problem| (outside(problem), problem.span.start));
        problems.dedup(); // an alias repeats what is wrong at its anchor
        let omitted = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        for problem in &mut problems {
            if let Place::Line { .. } = problem.place {
                problem.place = position(self.source, problem.span.start);
            }
        }
        let source = secrets::hidden(self.source);
        ConfigError { problems, omitted, file: self.file.to_owned(), source }
    }
}

/// Line and column of a byte of the source, from 1; the column counts characters.
fn position(source: &str, offset: usize) -> Place {
    let before = source.get(..offset).unwrap_or(source);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    Place::Line { line, column }
}

impl ConfigError {
    /// An error that is only one problem, outside of the text of the file.
    pub(crate) fn single(file: &str, problem: Problem) -> Self {
        let (file, source) = (file.to_owned(), String::new());
        Self { problems: vec![problem], omitted: 0, file, source }
    }

    /// The problems for a terminal: each with its line, a caret and a hint.
    ///
    /// `colour` adds ANSI escapes; leave it out where the text does not go to a terminal.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let reports: Vec<_> =
            self.problems.iter().map(|problem| renderer.render(&[self.report(problem)])).collect();
        let mut text = reports.join("\n");
        if self.omitted > 0 {
            text.push_str(&format!("\nand {} more problems", self.omitted));
        }
        text
    }

    fn report<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let title = Level::ERROR.primary_title(&problem.message);
        let title = title.id(Code::BadConfiguration.to_string());
        let group = match problem.place {
            Place::Line { line, column } => match self.shown_line(&problem.span) {
                Some((text, caret)) => title.element(
                    Snippet::source(text)
                        .path(&self.file)
                        .line_start(line)
                        .annotation(AnnotationKind::Primary.span(caret)),
                ),
                None => title.element(Origin::path(&self.file).line(line).char_column(column)),
            },
            Place::File => title.element(Origin::path(&self.file)),
            Place::Option(option) => title.element(Origin::path(option)),
            Place::Environment => title.element(Origin::path("environment")),
        };
        group.element(Level::HELP.message(&problem.hint))
    }

    /// The line on which `span` begins, and the part of it that gets the caret.
    fn shown_line(&self, span: &Range<usize>) -> Option<(&str, Range<usize>)> {
        let line_start = self.source.get(..span.start)?.rfind('\n').map_or(0, |at| at + 1);
        let line = self.source.get(line_start..)?.split(['\n', '\r']).next()?;
        if line.len() > SHOWN_LINE_BYTES_MAX {
            return None;
        }
        let start = (span.start - line_start).min(line.len());
        let end = span.end.saturating_sub(line_start).min(line.len());
        let one_char = line.get(start..)?.chars().next().map_or(0, char::len_utf8);
        Some((line, start..end.max(start + one_char)))
    }
}

/// One line for each problem: `file:line:column: message (hint)`.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            match problem.place {
                Place::Line { line, column } => write!(f, "{}:{line}:{column}", self.file)?,
                Place::File => f.write_str(&self.file)?,
                Place::Option(option) => f.write_str(option)?,
                Place::Environment => f.write_str("environment")?,
            }
            write!(f, ": {} ({})", problem.message, problem.hint)?;
        }
        if self.omitted > 0 {
            write!(f, "\nand {} more problems", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
