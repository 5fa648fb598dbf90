//! Reading a TOML file that people write: key by key, each mistake with its place and its cure.
//!
//! A table is read against a list of [`Key`]s. A key that is not in the list is refused, so a misspelt one is never
//! silently ignored. What a key takes and an example of it are written once, beside its name, and every error about it
//! says both.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A mistake in a file that people write: where it is, what was expected there, what was found, and an example.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {key}: expected {expected}, found {found}; example: {example}")]
pub struct Error {
    /// The file, as it was named to the parser.
    pub file: String,
    /// From 1. A missing key has the line of its table.
    pub line: usize,
    /// The key, without its table's name; `syntax` where the file is not TOML.
    pub key: String,
    /// What would be right.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// A line that is right.
    pub example: &'static str,
}

/// A key of a table.
pub(crate) struct Key {
    pub name: &'static str,
    takes: Takes,
    example: &'static str,
}

enum Takes {
    Text(&'static str),
    Whole(&'static str, RangeInclusive<i64>),
}

impl Key {
    /// A key that takes what `expected` says.
    pub const fn new(name: &'static str, expected: &'static str, example: &'static str) -> Self {
        Self { name, takes: Takes::Text(expected), example }
    }

    /// A key that takes a whole number of `unit` within `bounds`.
    pub const fn whole(
        name: &'static str,
        unit: &'static str,
        bounds: RangeInclusive<i64>,
        example: &'static str,
    ) -> Self {
        Self { name, takes: Takes::Whole(unit, bounds), example }
    }

    fn expected(&self) -> String {
        match &self.takes {
            Takes::Text(text) => (*text).to_owned(),
            Takes::Whole(unit, bounds) => {
                format!("a whole number from {} to {} ({unit})", bounds.start(), bounds.end())
            }
        }
    }
}

/// A file's text and name: what turns a place in it into a line.
pub(crate) struct Document<'a> {
    file: &'a str,
    text: &'a str,
}

impl<'a> Document<'a> {
    pub fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text }
    }

    /// The file's outermost table, unread.
    pub fn root(&self) -> Result<Spanned<DeTable<'a>>, Error> {
        DeTable::parse(self.text).map_err(|error| Error {
            file: self.file.to_owned(),
            line: self.line(error.span().map_or(0, |span| span.start)),
            key: "syntax".to_owned(),
            expected: "TOML".to_owned(),
            found: error.message().to_owned(),
            example: "key = \"value\"",
        })
    }

    fn line(&self, place: usize) -> usize {
        self.text.bytes().take(place).filter(|&byte| byte == b'\n').count() + 1
    }
}

/// A value where another one was expected.
struct Wrong {
    place: usize,
    found: String,
}

impl Wrong {
    fn value(value: &Spanned<DeValue<'_>>) -> Self {
        let found = match value.get_ref() {
            DeValue::String(text) => quoted(text),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(time) => time.to_string(),
            DeValue::Array(list) if list.is_empty() => "an empty list".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        Self { place: value.span().start, found }
    }
}

/// `text` as an error shows it: on one line, escaped, and never long.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN_CHARS: usize = 60;
    let (start, rest) = text.char_indices().nth(SHOWN_CHARS).map_or((text, ""), |(end, _)| text.split_at(end));
    start.escape_debug().chain(if rest.is_empty() { "" } else { "..." }.chars()).collect()
}

/// The same in quotes.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text))
}

/// A table whose keys are all known.
pub(crate) struct Table<'a> {
    document: &'a Document<'a>,
    table: &'a DeTable<'a>,
    line: usize,
}

impl<'a> Table<'a> {
    /// The file's outermost table.
    pub fn root(document: &'a Document<'a>, root: &'a Spanned<DeTable<'a>>, keys: &[&Key]) -> Result<Self, Error> {
        Self::new(document, root.get_ref(), 1, keys)
    }

    fn new(document: &'a Document<'a>, table: &'a DeTable<'a>, line: usize, keys: &[&Key]) -> Result<Self, Error> {
        let this = Self { document, table, line };
        let mut unknown: Vec<_> =
            table.keys().filter(|name| keys.iter().all(|key| key.name != name.get_ref().as_ref())).collect();
        unknown.sort_by_key(|name| name.span().start);
        let Some(first) = unknown.first() else { return Ok(this) };
        let near = keys.iter().max_by_key(|key| common_prefix(key.name, first.get_ref()));
        Err(Error {
            file: document.file.to_owned(),
            line: document.line(first.span().start),
            key: shown(first.get_ref()),
            expected: format!("one of {}", keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")),
            found: "an unknown key".to_owned(),
            example: near.map_or("", |key| key.example),
        })
    }

    /// Whether the key is written at all.
    pub fn has(&self, key: &Key) -> bool {
        self.table.contains_key(key.name)
    }

    /// A mistake at `key`: not what its own text says, but `expected`.
    pub fn mistake(&self, key: &Key, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error {
            file: self.document.file.to_owned(),
            line: self.line_of(key),
            key: key.name.to_owned(),
            expected: expected.into(),
            found: found.into(),
            example: key.example,
        }
    }

    /// The line of the key's value; of the table where the key is missing.
    pub fn line_of(&self, key: &Key) -> usize {
        self.table.get(key.name).map_or(self.line, |value| self.document.line(value.span().start))
    }

    /// `value`, which must be there.
    pub fn required<T>(&self, key: &Key, value: Option<T>) -> Result<T, Error> {
        value.ok_or_else(|| self.mistake(key, key.expected(), "nothing"))
    }

    /// A string that `parse` takes.
    pub fn text<T>(&self, key: &Key, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Error> {
        self.read(key, |value| text(value, &parse))
    }

    /// A list of strings, each of which `parse` takes.
    pub fn texts<T>(&self, key: &Key, parse: impl Fn(&str) -> Option<T>) -> Result<Option<Vec<T>>, Error> {
        self.read(key, |value| {
            let list = value.get_ref().as_array().ok_or_else(|| Wrong::value(value))?;
            list.iter().map(|item| text(item, &parse)).collect()
        })
    }

    /// A table of strings, each of which `parse` takes with its key.
    pub fn map<T>(&self, key: &Key, parse: impl Fn(&str, &str) -> Option<T>) -> Result<Option<Vec<T>>, Error> {
        self.read(key, |value| {
            let table = value.get_ref().as_table().ok_or_else(|| Wrong::value(value))?;
            table
                .iter()
                .map(|(name, item)| {
                    text(item, &|text| parse(name.get_ref(), text)).map_err(|wrong| Wrong {
                        found: format!("{} = {}", shown(name.get_ref()), wrong.found),
                        ..wrong
                    })
                })
                .collect()
        })
    }

    /// The first string in the list or table that `check` refuses, with its line.
    pub fn check_texts<E>(&self, key: &Key, check: impl Fn(&str) -> Result<(), E>) -> Result<(), (usize, E)> {
        let items: Vec<_> = match self.table.get(key.name).map(Spanned::get_ref) {
            Some(DeValue::Array(list)) => list.iter().collect(),
            Some(DeValue::Table(table)) => table.values().collect(),
            _ => Vec::new(),
        };
        items.into_iter().try_for_each(|item| {
            let text = item.get_ref().as_str().unwrap_or_default();
            check(text).map_err(|error| (self.document.line(item.span().start), error))
        })
    }

    /// `true` or `false`.
    pub fn boolean(&self, key: &Key) -> Result<Option<bool>, Error> {
        self.read(key, |value| value.get_ref().as_bool().ok_or_else(|| Wrong::value(value)))
    }

    /// A whole number within the key's own bounds, which must lie within those of `T`.
    pub fn whole<T: TryFrom<i64>>(&self, key: &Key) -> Result<Option<T>, Error> {
        self.read(key, |value| {
            let number = value.get_ref().as_integer().and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok());
            let number = number.filter(|n| match &key.takes {
                Takes::Whole(_, bounds) => bounds.contains(n),
                Takes::Text(_) => true,
            });
            number.and_then(|n| T::try_from(n).ok()).ok_or_else(|| Wrong::value(value))
        })
    }

    /// A table below this one.
    pub fn table(&self, key: &Key, keys: &[&Key]) -> Result<Option<Table<'a>>, Error> {
        let found = self.read(key, |value| self.inner(value))?;
        found.map(|(table, line)| Table::new(self.document, table, line, keys)).transpose()
    }

    /// A list of tables below this one: `[[key]]`.
    pub fn tables(&self, key: &Key, keys: &[&Key]) -> Result<Vec<Table<'a>>, Error> {
        let found = self.read(key, |value| {
            let list = value.get_ref().as_array().ok_or_else(|| Wrong::value(value))?;
            list.iter().map(|item| self.inner(item)).collect::<Result<Vec<_>, _>>()
        })?;
        let found = found.unwrap_or_default().into_iter();
        found.map(|(table, line)| Table::new(self.document, table, line, keys)).collect()
    }

    fn inner(&self, value: &'a Spanned<DeValue<'a>>) -> Result<(&'a DeTable<'a>, usize), Wrong> {
        let table = value.get_ref().as_table().ok_or_else(|| Wrong::value(value))?;
        Ok((table, self.document.line(value.span().start)))
    }

    fn read<T>(
        &self,
        key: &Key,
        read: impl FnOnce(&'a Spanned<DeValue<'a>>) -> Result<T, Wrong>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.table.get(key.name) else { return Ok(None) };
        read(value).map(Some).map_err(|wrong| Error {
            line: self.document.line(wrong.place),
            ..self.mistake(key, key.expected(), wrong.found)
        })
    }
}

fn text<T>(value: &Spanned<DeValue<'_>>, parse: &impl Fn(&str) -> Option<T>) -> Result<T, Wrong> {
    value.get_ref().as_str().and_then(parse).ok_or_else(|| Wrong::value(value))
}

fn common_prefix(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
}
