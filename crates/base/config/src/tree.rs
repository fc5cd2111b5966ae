//! YAML text as a tree whose every node knows its place.
//!
//! Built from the parser's events and not through serde, because serde stops at the
//! first key that it does not know (`docs/adr/0002-configuration-parser.md`).

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle, Span, StrInput, StructureStyle, Tag};

use crate::problem::Problems;

/// Deepest nesting; the settings need 6.
const DEPTH_MAX: usize = 16;
/// Most nodes, those behind aliases counted each time; 1 MiB of text seldom has a quarter.
const NODES_MAX: usize = 250_000;

/// A value and the bytes of the source that it was read from.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) span: Range<usize>,
    pub(crate) value: Value,
}

#[derive(Debug)]
pub(crate) enum Value {
    /// A scalar; `plain` when it was written without quotes.
    Text {
        text: String,
        plain: bool,
    },
    List(Vec<Rc<Node>>),
    Map(Vec<(Rc<Node>, Rc<Node>)>),
}

impl Node {
    /// Is this what YAML calls null: nothing at all, `~` or `null`?
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Text { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// A finished node and what it weighs when an alias repeats it.
#[derive(Clone)]
struct Built {
    node: Rc<Node>,
    nodes: usize,
    height: usize,
}

/// A list or mapping whose end has not come yet.
struct Open {
    start: Span,
    anchor: usize,
    block: bool,
    map: bool,
    children: Vec<Rc<Node>>,
    nodes: usize,
    height: usize,
}

/// Why reading stopped: where, what, and what to do.
type Stop = (Range<usize>, String, &'static str);

/// Reads the one document in `source`. The outer `None`: it is not YAML that can be
/// read, and `problems` says why. The inner one: there is nothing but comments.
pub(crate) fn parse(source: &str, problems: &mut Problems<'_>) -> Option<Option<Rc<Node>>> {
    let options = granit_parser::options! {
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
        emit_comments: false,
    };
    let parser = Parser::new_from_str_with_options(source, options);
    match Builder::default().build(parser, source) {
        Ok(root) => Some(root.filter(|root| !root.is_null())),
        Err((span, message, hint)) => {
            problems.add(&span, message, hint);
            None
        }
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Built>,
    root: Option<Rc<Node>>,
    nodes: usize,
    documents: usize,
}

impl Builder {
    fn build<'s>(
        mut self,
        parser: Parser<'s, StrInput<'s>>,
        source: &str,
    ) -> Result<Option<Rc<Node>>, Stop> {
        for next in parser {
            let (event, span) = next.map_err(|error| {
                let at = error.marker().byte_offset().unwrap_or(source.len());
                let info = error.info();
                let hint = if info.contains("tab") {
                    "indent with spaces; YAML allows no tabs there"
                } else {
                    "check indentation, quotes and brackets here and on the lines above"
                };
                (at..at, format!("not valid YAML: {info}"), hint)
            })?;
            self.event(event, span)?;
        }
        Ok(self.root)
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let hint = "put everything into one document: remove this and what follows";
                    return Err((bytes(span), "a second YAML document".to_owned(), hint));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                check_tag(tag.as_deref(), span)?;
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let value = Value::Text { text: text.into_owned(), plain };
                let node = Rc::new(Node { span: bytes(span), value });
                self.place(Built { node, nodes: 1, height: 1 }, anchor, span)?;
            }
            Event::SequenceStart(style, anchor, tag) => {
                check_tag(tag.as_deref(), span)?;
                self.open(span, anchor, style, false);
            }
            Event::MappingStart(style, anchor, tag) => {
                check_tag(tag.as_deref(), span)?;
                self.open(span, anchor, style, true);
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span)?,
            Event::Alias(anchor) => {
                let Some(built) = self.anchors.get(&anchor).cloned() else {
                    let hint = "an alias can only stand behind the end of what it repeats";
                    return Err((bytes(span), "the alias repeats itself".to_owned(), hint));
                };
                self.nodes += built.nodes - 1;
                self.place(built, 0, span)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, start: Span, anchor: usize, style: StructureStyle, map: bool) {
        let block = style == StructureStyle::Block;
        let children = Vec::new();
        self.open.push(Open { start, anchor, block, map, children, nodes: 1, height: 1 });
    }

    fn close(&mut self, end: Span) -> Result<(), Stop> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let start = bytes(open.start);
        // A block ends where the next thing begins: too much for a caret.
        let span = if open.block { start } else { start.start..bytes(end).end };
        let value = if open.map {
            let mut pairs = Vec::with_capacity(open.children.len() / 2);
            let mut children = open.children.into_iter();
            while let (Some(key), Some(value)) = (children.next(), children.next()) {
                pairs.push((key, value));
            }
            Value::Map(pairs)
        } else {
            Value::List(open.children)
        };
        let node = Rc::new(Node { span, value });
        let built = Built { node, nodes: open.nodes, height: open.height };
        self.place(built, open.anchor, open.start)
    }

    /// Puts a finished node where it belongs.
    fn place(&mut self, built: Built, anchor: usize, span: Span) -> Result<(), Stop> {
        self.nodes += 1; // its children, if any, were counted when they came
        if self.nodes > NODES_MAX {
            let hint = "use fewer names, or globs, and fewer aliases";
            return Err((bytes(span), format!("more than {NODES_MAX} values"), hint));
        }
        if self.open.len() + built.height > DEPTH_MAX {
            let hint = "the settings need 6 levels";
            return Err((bytes(span), format!("more than {DEPTH_MAX} levels deep"), hint));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, built.clone());
        }
        match self.open.last_mut() {
            Some(open) => {
                open.nodes += built.nodes;
                open.height = open.height.max(built.height + 1);
                open.children.push(built.node);
            }
            None => self.root = Some(built.node),
        }
        Ok(())
    }
}

fn check_tag(tag: Option<&Tag>, span: Span) -> Result<(), Stop> {
    match tag {
        Some(tag) if tag.is_custom() && tag.original() != "!" => {
            let span = span.tag_span().unwrap_or(span);
            Err((bytes(span), "tags have no meaning here".to_owned(), "leave the tag out"))
        }
        _ => Ok(()),
    }
}

fn bytes(span: Span) -> Range<usize> {
    span.byte_range().unwrap_or(0..0)
}
