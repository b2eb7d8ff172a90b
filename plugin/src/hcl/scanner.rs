//! Characters to tokens, as HCL 1 cuts them.

use entente_bundle::text::printable;

use super::HclError;

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// `=`, and `:` in JSON.
    Assign,
    CloseBrace,
    CloseBracket,
    Comma,
    End,
    Float(f64),
    Integer(i64),
    OpenBrace,
    OpenBracket,
    /// A quoted string or a heredoc.
    Text(String),
    Word(String),
}

impl Token {
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Assign => "=".into(),
            Self::CloseBrace => "}".into(),
            Self::CloseBracket => "]".into(),
            Self::Comma => "a comma".into(),
            Self::End => "the end of the text".into(),
            Self::Float(number) => number.to_string(),
            Self::Integer(number) => number.to_string(),
            Self::OpenBrace => "{".into(),
            Self::OpenBracket => "[".into(),
            Self::Text(text) => format!("{:?}", shortened(text)),
            Self::Word(word) => shortened(word),
        }
    }
}

fn shortened(text: &str) -> String {
    printable(text, 40)
}

/// Walks over the text once.
pub(super) struct Scanner<'a> {
    rest: std::str::Chars<'a>,
    line: usize,
    column: usize,
    start: (usize, usize),
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text.chars(), line: 1, column: 1, start: (1, 1) }
    }

    /// Line and column of the newest token.
    pub(super) fn token_start(&self) -> (usize, usize) {
        self.start
    }

    pub(super) fn next_token(&mut self) -> Result<Token, HclError> {
        self.skip_blanks_and_comments()?;
        self.start = (self.line, self.column);
        let Some(first) = self.peek() else {
            return Ok(Token::End);
        };
        match first {
            '"' => self.quoted(),
            '<' => self.heredoc(),
            '-' | '0'..='9' => self.number(),
            first if first.is_alphabetic() || first == '_' => Ok(Token::Word(self.word())),
            _ => self.sign(),
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn take(&mut self) -> Option<char> {
        let taken = self.rest.next()?;
        if taken == '\n' {
            (self.line, self.column) = (self.line + 1, 1);
        } else {
            self.column += 1;
        }
        Some(taken)
    }

    fn take_if(&mut self, wanted: impl Fn(char) -> bool) -> Option<char> {
        self.peek().filter(|&next| wanted(next))?;
        self.take()
    }

    fn error<T>(&self, expected: &'static str, found: impl Into<String>) -> Result<T, HclError> {
        Err(HclError::Unexpected { line: self.line, column: self.column, expected, found: found.into() })
    }

    fn found(&self) -> String {
        self.peek().map_or_else(|| "the end of the text".into(), |next| format!("{next:?}"))
    }

    fn sign(&mut self) -> Result<Token, HclError> {
        let token = match self.peek() {
            Some('=' | ':') => Token::Assign,
            Some('{') => Token::OpenBrace,
            Some('}') => Token::CloseBrace,
            Some('[') => Token::OpenBracket,
            Some(']') => Token::CloseBracket,
            Some(',') => Token::Comma,
            _ => return self.error("a key, a value or a bracket", self.found()),
        };
        self.take();
        Ok(token)
    }

    fn skip_blanks_and_comments(&mut self) -> Result<(), HclError> {
        loop {
            while self.take_if(|next| next.is_whitespace() || next == '\u{feff}').is_some() {}
            let mut ahead = self.rest.clone();
            match (ahead.next(), ahead.next()) {
                (Some('#'), _) | (Some('/'), Some('/')) => {
                    while self.take_if(|next| next != '\n').is_some() {}
                }
                (Some('/'), Some('*')) => self.skip_block_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), HclError> {
        let mut previous = '\0';
        self.take();
        self.take();
        loop {
            match self.take() {
                Some('/') if previous == '*' => return Ok(()),
                Some(next) => previous = next,
                None => return self.error("*/", "the end of the text"),
            }
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(next) = self.take_if(|next| next.is_alphanumeric() || matches!(next, '_' | '-' | '.'))
        {
            word.push(next);
        }
        word
    }

    fn number(&mut self) -> Result<Token, HclError> {
        let mut text = String::new();
        while let Some(next) =
            self.take_if(|next| next.is_ascii_alphanumeric() || matches!(next, '-' | '+' | '.'))
        {
            text.push(next);
        }
        let (sign, digits) = text.strip_prefix('-').map_or((1, text.as_str()), |digits| (-1, digits));
        let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
        let integer = match hexadecimal {
            Some(hexadecimal) => i64::from_str_radix(hexadecimal, 16).ok(),
            None if digits.len() > 1 && digits.starts_with('0') => i64::from_str_radix(digits, 8).ok(),
            None => digits.parse().ok(),
        };
        // `from_str_radix` would take a second sign.
        let integer = integer.filter(|_| !digits.contains(['-', '+']));
        if let Some(integer) = integer {
            return Ok(Token::Integer(sign * integer));
        }
        match text.parse::<f64>() {
            Ok(float) if float.is_finite() && hexadecimal.is_none() => Ok(Token::Float(float)),
            _ => self.error("a number", shortened(&text)),
        }
    }

    /// A string in double quotes. Inside `${...}` quotes and newlines are plain text, as HCL 1 has it.
    fn quoted(&mut self) -> Result<Token, HclError> {
        let mut text = String::new();
        let mut braces = 0_usize;
        self.take();
        loop {
            let Some(next) = self.take() else {
                return self.error("a closing double quote", "the end of the text");
            };
            match next {
                '"' if braces == 0 => return Ok(Token::Text(text)),
                '\n' if braces == 0 => return self.error("a closing double quote", "the end of the line"),
                '\\' if braces == 0 => text.push(self.escaped()?),
                '$' if braces == 0 && self.peek() == Some('{') => {
                    self.take();
                    braces = 1;
                    text.push_str("${");
                }
                _ => {
                    match next {
                        '{' if braces > 0 => braces += 1,
                        '}' if braces > 0 => braces -= 1,
                        _ => {}
                    }
                    text.push(next);
                }
            }
        }
    }

    fn escaped(&mut self) -> Result<char, HclError> {
        let Some(next) = self.take() else {
            return self.error("an escape", "the end of the text");
        };
        Ok(match next {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\\' | '"' | '/' => next,
            'x' => self.code(2)?,
            'u' => self.utf16()?,
            'U' => self.code(8)?,
            _ => return self.error("an escape such as \\n or \\\"", format!("\\{next}")),
        })
    }

    fn hexadecimal(&mut self, digits: usize) -> Result<u32, HclError> {
        let mut code = 0;
        for _ in 0..digits {
            let Some(digit) =
                self.take_if(|next| next.is_ascii_hexdigit()).and_then(|digit| digit.to_digit(16))
            else {
                return self.error("a hexadecimal digit", self.found());
            };
            code = code * 16 + digit;
        }
        Ok(code)
    }

    fn code(&mut self, digits: usize) -> Result<char, HclError> {
        let code = self.hexadecimal(digits)?;
        char::from_u32(code).map_or_else(|| self.error("a character", format!("code {code:x}")), Ok)
    }

    /// JSON writes characters above U+FFFF as two escapes.
    fn utf16(&mut self) -> Result<char, HclError> {
        let first = self.hexadecimal(4)?;
        if !(0xD800..0xDC00).contains(&first) {
            return char::from_u32(first)
                .map_or_else(|| self.error("a character", format!("code {first:x}")), Ok);
        }
        for wanted in ['\\', 'u'] {
            if self.take_if(|next| next == wanted).is_none() {
                return self.error("the second half of a surrogate pair", self.found());
            }
        }
        let second = self.hexadecimal(4)?;
        if !(0xDC00..0xE000).contains(&second) {
            return self.error("the second half of a surrogate pair", format!("code {second:x}"));
        }
        let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        char::from_u32(code).map_or_else(|| self.error("a character", format!("code {code:x}")), Ok)
    }

    /// `<<MARK` up to a line that holds only `MARK`; `<<-MARK` takes the common indent away.
    fn heredoc(&mut self) -> Result<Token, HclError> {
        self.take();
        if self.take_if(|next| next == '<').is_none() {
            return self.error("<< and a mark", self.found());
        }
        let indented = self.take_if(|next| next == '-').is_some();
        let mark = self.word();
        if mark.is_empty() {
            return self.error("a mark such as EOF", self.found());
        }
        if self.take_line().trim() != "" {
            return self.error("a new line after the mark of a heredoc", mark);
        }
        let mut lines = Vec::new();
        loop {
            if self.peek().is_none() {
                return self.error("the line that ends the heredoc", "the end of the text");
            }
            let line = self.take_line();
            if line.trim() == mark {
                return Ok(Token::Text(joined(&lines, indented)));
            }
            lines.push(line);
        }
    }

    /// The rest of the line, without its end.
    fn take_line(&mut self) -> String {
        let mut line = String::new();
        while let Some(next) = self.take() {
            if next == '\n' {
                break;
            }
            line.push(next);
        }
        line.strip_suffix('\r').map_or_else(|| line.clone(), str::to_owned)
    }
}

fn joined(lines: &[String], indented: bool) -> String {
    let indent = |line: &String| line.len() - line.trim_start_matches([' ', '\t']).len();
    let common = lines.iter().filter(|line| !line.trim().is_empty()).map(indent).min().unwrap_or(0);
    let taken = if indented { common } else { 0 };
    lines.iter().map(|line| format!("{}\n", line.get(taken..).unwrap_or_default())).collect()
}
