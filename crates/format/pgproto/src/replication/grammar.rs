//! The grammar of replication commands; `repl_gram.y`.

use pgtypes::{Lsn, Timeline};

use super::lexer::{Lexer, Token};
use super::option::GenericOption;
use super::{BaseBackup, Command, CreatePhysicalSlot, GrammarError, OptionValue, StartPhysical};

/// Reads one command and the semicolon that may follow.
pub(super) fn parse(text: &[u8]) -> Result<Command, GrammarError> {
    let mut lexer = Lexer::new(text);
    let at = lexer.skip_blanks();
    // A server looks at the first word alone, and what is not a command is SQL. A quote is
    // the one thing that it cannot even cut into words.
    if lexer.bare_word().is_empty() {
        return match lexer.token() {
            Err(error @ GrammarError::Unterminated { .. }) => Err(error),
            _ => Ok(Command::Sql),
        };
    }
    let word = lexer.bare_word();
    let Ok(token) = lexer.token() else {
        return Ok(Command::Sql);
    };
    let mut parser = Parser { lexer, token, at, raw: word };
    let Token::Keyword(keyword) = parser.token else {
        return Ok(Command::Sql);
    };
    let command = match keyword {
        "IDENTIFY_SYSTEM" => parser.step().map(|_| Command::IdentifySystem),
        "UPLOAD_MANIFEST" => parser.step().map(|_| Command::UploadManifest),
        "SHOW" => parser.dotted().map(|name| Command::Show { name }),
        "READ_REPLICATION_SLOT" => {
            parser.dotted().map(|slot| Command::ReadReplicationSlot { slot })
        }
        "BASE_BACKUP" => parser.base_backup(),
        "START_REPLICATION" => parser.start_replication(),
        "CREATE_REPLICATION_SLOT" => parser.create_slot(),
        "ALTER_REPLICATION_SLOT" => parser.alter_slot(),
        "DROP_REPLICATION_SLOT" => parser.drop_slot(),
        "TIMELINE_HISTORY" => {
            parser.step()?;
            parser.timeline().map(|timeline| Command::TimelineHistory { timeline })
        }
        _ => return Ok(Command::Sql),
    }?;
    parser.end()?;
    Ok(command)
}

/// One word ahead of what has been read.
struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The next word.
    token: Token,
    /// Its offset.
    at: usize,
    /// As it was written, when it is a bare word.
    raw: &'a [u8],
}

impl Parser<'_> {
    /// Takes the next word and looks at the one after it.
    fn step(&mut self) -> Result<Token, GrammarError> {
        self.at = self.lexer.skip_blanks();
        self.raw = self.lexer.bare_word();
        let next = self.lexer.token()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn syntax<T>(&self, expected: &'static str) -> Result<T, GrammarError> {
        Err(GrammarError::Syntax { at: self.at, expected })
    }

    /// Takes `wanted` when it comes next.
    fn accept(&mut self, wanted: &Token) -> Result<bool, GrammarError> {
        let found = self.token == *wanted;
        if found {
            self.step()?;
        }
        Ok(found)
    }

    fn keyword(&mut self, word: &'static str) -> Result<bool, GrammarError> {
        self.accept(&Token::Keyword(word))
    }

    fn mark(&mut self, mark: u8, expected: &'static str) -> Result<(), GrammarError> {
        if self.accept(&Token::Mark(mark))? { Ok(()) } else { self.syntax(expected) }
    }

    fn name(&mut self) -> Result<String, GrammarError> {
        let Token::Name(name) = &mut self.token else {
            return self.syntax("a name");
        };
        let name = std::mem::take(name);
        self.step()?;
        Ok(name)
    }

    fn literal(&mut self) -> Result<String, GrammarError> {
        let Token::Literal(text) = &mut self.token else {
            return self.syntax("a string");
        };
        let text = std::mem::take(text);
        self.step()?;
        Ok(text)
    }

    fn number(&mut self) -> Result<u32, GrammarError> {
        let Token::Number(number) = self.token else {
            return self.syntax("a number");
        };
        self.step()?;
        Ok(number)
    }

    fn location(&mut self) -> Result<Lsn, GrammarError> {
        let Token::Location(location) = self.token else {
            return self.syntax("a position in the WAL");
        };
        self.step()?;
        Ok(location)
    }

    fn timeline(&mut self) -> Result<Timeline, GrammarError> {
        let at = self.at;
        match self.number()? {
            0 => Err(GrammarError::TimelineZero { at }),
            number => Ok(Timeline(number)),
        }
    }

    fn end(&mut self) -> Result<(), GrammarError> {
        self.accept(&Token::Mark(b';'))?;
        if self.token == Token::End { Ok(()) } else { self.syntax("the end of the command") }
    }

    /// `keyword name[.name …]`
    fn dotted(&mut self) -> Result<String, GrammarError> {
        self.step()?;
        let mut name = self.name()?;
        while self.accept(&Token::Mark(b'.'))? {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Ok(name)
    }

    fn start_replication(&mut self) -> Result<Command, GrammarError> {
        self.step()?;
        let slot = if self.keyword("SLOT")? { Some(self.name()?) } else { None };
        if let Some(slot) = &slot
            && self.keyword("LOGICAL")?
        {
            let (slot, start) = (slot.clone(), self.location()?);
            let options = self.plugin_options()?;
            return Ok(Command::StartLogical { slot, start, options });
        }
        self.keyword("PHYSICAL")?;
        let start = self.location()?;
        let timeline = if self.keyword("TIMELINE")? { Some(self.timeline()?) } else { None };
        Ok(Command::StartPhysical(StartPhysical { slot, start, timeline }))
    }

    /// `[(name ['value'], …)]`
    fn plugin_options(&mut self) -> Result<Vec<GenericOption>, GrammarError> {
        let mut options = Vec::new();
        if !self.accept(&Token::Mark(b'('))? {
            return Ok(options);
        }
        loop {
            let name = self.name()?;
            let has_value = matches!(self.token, Token::Literal(_));
            let value = if has_value { Some(OptionValue::Text(self.literal()?)) } else { None };
            options.push(GenericOption { name, value });
            if !self.accept(&Token::Mark(b','))? {
                break;
            }
        }
        self.mark(b')', "a comma or a closing parenthesis")?;
        Ok(options)
    }

    /// `(name [value], …)`, where a name may be a keyword.
    fn generic_options(&mut self) -> Result<Vec<GenericOption>, GrammarError> {
        self.mark(b'(', "an opening parenthesis")?;
        let mut options = Vec::new();
        loop {
            options.push(self.generic_option()?);
            if !self.accept(&Token::Mark(b','))? {
                break;
            }
        }
        self.mark(b')', "a comma or a closing parenthesis")?;
        Ok(options)
    }

    fn generic_option(&mut self) -> Result<GenericOption, GrammarError> {
        let name = match self.token {
            // The one keyword that the server's list leaves out.
            Token::Keyword("READ_REPLICATION_SLOT") => return self.syntax("a name"),
            Token::Keyword(word) => {
                self.step()?;
                word.to_ascii_lowercase()
            }
            _ => self.name()?,
        };
        let value = match self.token {
            Token::Name(_) => Some(OptionValue::Text(self.name()?)),
            Token::Literal(_) => Some(OptionValue::Text(self.literal()?)),
            Token::Number(_) => Some(OptionValue::Number(self.number()?)),
            _ => None,
        };
        Ok(GenericOption { name, value })
    }

    fn base_backup(&mut self) -> Result<Command, GrammarError> {
        self.step()?;
        if self.token == Token::Mark(b'(') {
            let options = self.generic_options()?;
            return Ok(Command::BaseBackup(BaseBackup { options }));
        }
        let mut options = Vec::new();
        while let Some(option) = self.backup_word()? {
            options.push(option);
        }
        Ok(Command::BaseBackup(BaseBackup { options }))
    }

    /// One of the words that were keywords up to 14; in capitals, as they had to be.
    fn backup_word(&mut self) -> Result<Option<GenericOption>, GrammarError> {
        let word = self.raw;
        let option = match word {
            b"PROGRESS" => GenericOption::bare("progress"),
            b"FAST" => GenericOption::text("checkpoint", "fast"),
            b"WAL" => GenericOption::bare("wal"),
            b"NOWAIT" => GenericOption::number("wait", 0),
            b"TABLESPACE_MAP" => GenericOption::bare("tablespace_map"),
            b"NOVERIFY_CHECKSUMS" => GenericOption::number("verify_checksums", 0),
            b"LABEL" | b"MANIFEST" | b"MANIFEST_CHECKSUMS" | b"MAX_RATE" => {
                self.step()?;
                return Ok(Some(match word {
                    b"LABEL" => GenericOption::text("label", self.literal()?),
                    b"MANIFEST" => GenericOption::text("manifest", self.literal()?),
                    b"MAX_RATE" => GenericOption::number("max_rate", self.number()?),
                    _ => GenericOption::text("manifest_checksums", self.literal()?),
                }));
            }
            _ => return Ok(None),
        };
        self.step()?;
        Ok(Some(option))
    }

    fn create_slot(&mut self) -> Result<Command, GrammarError> {
        self.step()?;
        let name = self.name()?;
        let temporary = self.keyword("TEMPORARY")?;
        if self.keyword("PHYSICAL")? {
            let options = self.slot_options()?;
            // A server reads the whole command before it looks at options.
            self.end()?;
            let reserve_wal = reserve_wal(&options)?;
            return Ok(Command::CreatePhysicalSlot(CreatePhysicalSlot {
                name,
                temporary,
                reserve_wal,
            }));
        }
        if !self.keyword("LOGICAL")? {
            return self.syntax("PHYSICAL or LOGICAL");
        }
        let plugin = self.name()?;
        let options = self.slot_options()?;
        Ok(Command::CreateLogicalSlot { name, temporary, plugin, options })
    }

    /// Options in parentheses, or the words that all servers still know.
    fn slot_options(&mut self) -> Result<Vec<GenericOption>, GrammarError> {
        if self.token == Token::Mark(b'(') {
            return self.generic_options();
        }
        let mut options = Vec::new();
        loop {
            options.push(match self.token {
                Token::Keyword("EXPORT_SNAPSHOT") => GenericOption::text("snapshot", "export"),
                Token::Keyword("NOEXPORT_SNAPSHOT") => GenericOption::text("snapshot", "nothing"),
                Token::Keyword("USE_SNAPSHOT") => GenericOption::text("snapshot", "use"),
                Token::Keyword("RESERVE_WAL") => GenericOption::bare("reserve_wal"),
                Token::Keyword("TWO_PHASE") => GenericOption::bare("two_phase"),
                _ => return Ok(options),
            });
            self.step()?;
        }
    }

    fn alter_slot(&mut self) -> Result<Command, GrammarError> {
        self.step()?;
        Ok(Command::AlterSlot { name: self.name()?, options: self.generic_options()? })
    }

    fn drop_slot(&mut self) -> Result<Command, GrammarError> {
        self.step()?;
        Ok(Command::DropSlot { name: self.name()?, wait: self.keyword("WAIT")? })
    }
}

/// What options of a physical slot ask for; mirrors `parseCreateReplSlotOptions` (walsender.c).
fn reserve_wal(options: &[GenericOption]) -> Result<bool, GrammarError> {
    let mut reserve = None;
    for option in options {
        let name = option.name.clone();
        match name.as_str() {
            "reserve_wal" if reserve.is_none() => match option.as_bool() {
                Some(asked) => reserve = Some(asked),
                None => return Err(GrammarError::NotBoolean { name }),
            },
            "reserve_wal" | "snapshot" | "two_phase" | "failover" => {
                return Err(GrammarError::Conflict { name });
            }
            _ => return Err(GrammarError::UnknownOption { name }),
        }
    }
    Ok(reserve.unwrap_or(false))
}
