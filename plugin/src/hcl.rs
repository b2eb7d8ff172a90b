//! HCL 1 to a value: only what a plugin's configuration can be, in each shape in which SPIRE Server hands it over.
//!
//! Native blocks, the quoted-key form that SPIRE prints for JSON configurations, and JSON itself (from `plugin_data_file`).
//! `${...}` stays text, as SPIRE leaves it. What the keys mean is `config`'s business.

mod scanner;

use scanner::{Scanner, Token};

/// Longest text that is read at all.
const MAX_TEXT: usize = 1 << 20;

/// Deepest nesting of lists and objects.
const MAX_DEPTH: usize = 32;

/// A configuration value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Float(f64),
    Integer(i64),
    List(Vec<Self>),
    Object(Object),
    String(String),
}

impl Value {
    /// What kind of value it is, for messages to people.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "true or false",
            Self::Float(_) | Self::Integer(_) => "a number",
            Self::List(_) => "a list",
            Self::Object(_) => "a block",
            Self::String(_) => "a string",
        }
    }
}

/// The items of a block, in order; a key may repeat.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object {
    pub(crate) items: Vec<Item>,
}

/// `key value`, `key "label" value` or `key = value`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) key: String,
    pub(crate) labels: Vec<String>,
    pub(crate) value: Value,
}

/// Why a text is no HCL. Line and column count from one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HclError {
    #[error("line {line}, column {column}: nested deeper than {MAX_DEPTH} levels")]
    TooDeep { line: usize, column: usize },
    #[error("longer than {MAX_TEXT} bytes")]
    TooLong,
    #[error("line {line}, column {column}: this {bracket} is never closed")]
    NotClosed { line: usize, column: usize, bracket: char },
    #[error("line {line}, column {column}: expected {expected}, found {found}")]
    Unexpected { line: usize, column: usize, expected: &'static str, found: String },
}

/// Reads the body of a block: items without braces around them, or one JSON object.
pub(crate) fn parse(text: &str) -> Result<Object, HclError> {
    if text.len() > MAX_TEXT {
        return Err(HclError::TooLong);
    }
    let mut parser = Parser::new(text)?;
    let object = if parser.current == Token::OpenBrace {
        let object = parser.braces(0)?;
        parser.advance()?;
        object
    } else {
        parser.object(Token::End, 0)?
    };
    parser.expect(&Token::End, "the end of the text")?;
    Ok(object)
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    current: Token,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, HclError> {
        let mut scanner = Scanner::new(text);
        let current = scanner.next_token()?;
        Ok(Self { scanner, current })
    }

    /// Steps on, and returns what was current.
    fn advance(&mut self) -> Result<Token, HclError> {
        let next = self.scanner.next_token()?;
        Ok(std::mem::replace(&mut self.current, next))
    }

    fn unexpected<T>(&self, expected: &'static str) -> Result<T, HclError> {
        let (line, column) = self.scanner.token_start();
        Err(HclError::Unexpected { line, column, expected, found: self.current.describe() })
    }

    fn expect(&mut self, token: &Token, expected: &'static str) -> Result<(), HclError> {
        if self.current == *token { Ok(()) } else { self.unexpected(expected) }
    }

    /// From the opening brace to the closing one, which stays current.
    fn braces(&mut self, depth: usize) -> Result<Object, HclError> {
        let opened = self.scanner.token_start();
        self.advance()?;
        let object = self.object(Token::CloseBrace, depth);
        self.closed(object, '{', opened)
    }

    /// Where the text ended too early, what was opened and never closed is to blame; of several, the innermost.
    fn closed<T>(
        &self,
        inside: Result<T, HclError>,
        bracket: char,
        (line, column): (usize, usize),
    ) -> Result<T, HclError> {
        inside.map_err(|error| match error {
            HclError::Unexpected { .. } if self.current == Token::End => {
                HclError::NotClosed { line, column, bracket }
            }
            other => other,
        })
    }

    /// Items up to `end`, which stays current. Items may share a line and may have commas between them.
    fn object(&mut self, end: Token, depth: usize) -> Result<Object, HclError> {
        let mut object = Object::default();
        while self.current != end {
            object.items.push(self.item(depth)?);
            if self.current == Token::Comma {
                self.advance()?;
            }
        }
        Ok(object)
    }

    fn item(&mut self, depth: usize) -> Result<Item, HclError> {
        let key = self.key("a key")?;
        let mut labels = Vec::new();
        loop {
            match self.current {
                Token::Assign => {
                    self.advance()?;
                    let value = self.value(depth)?;
                    return Ok(Item { key, labels, value });
                }
                Token::OpenBrace => return Ok(Item { key, labels, value: self.value(depth)? }),
                _ => labels.push(self.key("=, { or a label")?),
            }
        }
    }

    fn key(&mut self, expected: &'static str) -> Result<String, HclError> {
        match &self.current {
            Token::Word(_) | Token::Text(_) => match self.advance()? {
                Token::Word(text) | Token::Text(text) => Ok(text),
                _ => self.unexpected(expected),
            },
            _ => self.unexpected(expected),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, HclError> {
        if depth >= MAX_DEPTH {
            let (line, column) = self.scanner.token_start();
            return Err(HclError::TooDeep { line, column });
        }
        let value = match &self.current {
            Token::Text(text) => Value::String(text.clone()),
            Token::Integer(number) => Value::Integer(*number),
            Token::Float(number) => Value::Float(*number),
            Token::Word(word) if word == "true" => Value::Bool(true),
            Token::Word(word) if word == "false" => Value::Bool(false),
            Token::OpenBrace => Value::Object(self.braces(depth + 1)?),
            Token::OpenBracket => {
                let opened = self.scanner.token_start();
                self.advance()?;
                let list = self.list(depth + 1);
                Value::List(self.closed(list, '[', opened)?)
            }
            _ => return self.unexpected("a value (a string stands in double quotes)"),
        };
        self.advance()?;
        Ok(value)
    }

    /// Values up to the closing bracket, which stays current. A comma after the last one is fine.
    fn list(&mut self, depth: usize) -> Result<Vec<Value>, HclError> {
        let mut values = Vec::new();
        while self.current != Token::CloseBracket {
            values.push(self.value(depth)?);
            match self.current {
                Token::Comma => {
                    self.advance()?;
                }
                Token::CloseBracket => {}
                _ => return self.unexpected("a comma or ]"),
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests;
