//! What a state of a database consists of: `sqlite_schema`.

use rusqlite::Connection;

use super::sql::{self, quoted, text};
use super::value::Encoding;
use crate::error::Result;
use crate::rows::record::Value;

/// What an object of the schema is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A table with pages of its own.
    Table,
    /// A table of a module.
    Virtual,
    /// A table in which a module keeps what it has.
    Shadow,
    /// A table of SQLite's own, such as `sqlite_sequence`.
    Internal,
    /// An index that was created by a statement.
    Index,
    /// An index that belongs to a constraint, or to a module.
    AutoIndex,
    /// A view.
    View,
    /// A trigger.
    Trigger,
}

/// A row of `sqlite_schema`.
#[derive(Clone, Debug)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The table it belongs to.
    pub table: String,
    /// The root of its B-tree; 0 without one.
    pub root: u32,
    /// The statement that creates it.
    pub sql: String,
}

impl Object {
    /// Whether this is called `name`, as SQLite compares names.
    pub fn is_called(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The module of a virtual table, in lower case, and its arguments.
    pub fn module(&self) -> (String, Vec<String>) {
        module(&self.sql)
    }

    /// The beginning of its statement, for a sentence.
    pub fn statement(&self) -> String {
        let mut words = self.sql.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((end, _)) = words.char_indices().nth(120) {
            words.truncate(end);
            words.push('…');
        }
        words
    }
}

/// The schema of one state.
pub struct Schema {
    /// Its name on the connection.
    pub name: &'static str,
    /// The objects, in the order in which they were created.
    pub objects: Vec<Object>,
    /// Counted up with each change of the schema.
    pub cookie: i64,
    /// How text is stored.
    pub encoding: Encoding,
}

impl Schema {
    /// Reads the schema of this name.
    pub fn read(connection: &Connection, name: &'static str) -> Result<Self> {
        let sql = format!(
            "SELECT type, name, tbl_name, rootpage, sql FROM {}.sqlite_schema ORDER BY rowid",
            quoted(name)
        );
        let mut objects: Vec<_> = sql::rows(connection, &sql, [])?
            .iter()
            .filter_map(|row| object(row))
            .collect();
        let modules: Vec<(String, String)> = objects
            .iter()
            .filter(|object| object.kind == Kind::Virtual)
            .map(|object| (object.name.to_ascii_lowercase(), object.module().0))
            .collect();
        for object in &mut objects {
            let is_shadow = |(table, module): &(String, String)| {
                is_shadow(&object.name.to_ascii_lowercase(), table, module)
            };
            if object.kind == Kind::Table && modules.iter().any(is_shadow) {
                object.kind = Kind::Shadow;
            }
        }
        let shadows: Vec<_> = objects
            .iter()
            .filter(|object| object.kind == Kind::Shadow)
            .map(|object| object.name.clone())
            .collect();
        // What belongs to them is the module's as well.
        for object in &mut objects {
            if object.kind == Kind::Index && shadows.contains(&object.table) {
                object.kind = Kind::AutoIndex;
            }
        }
        let encoding = sql::first(connection, "PRAGMA encoding", [])?;
        let encoding = encoding.map(|row| text(&row[0])).unwrap_or_default();
        Ok(Self {
            name,
            objects,
            cookie: sql::integer(
                connection,
                &format!("PRAGMA {}.schema_version", quoted(name)),
            )?,
            encoding: Encoding::named(&encoding),
        })
    }

    /// The objects of a kind.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.objects
            .iter()
            .filter(move |object| object.kind == kind)
    }

    /// The object of a kind that is called so.
    pub fn find(&self, kind: Kind, name: &str) -> Option<&Object> {
        self.all(kind).find(|object| object.is_called(name))
    }

    /// The table with a B-tree that is called so.
    pub fn stored(&self, table: &str) -> Option<&Object> {
        let is_it = |object: &&Object| {
            object.is_called(table)
                && matches!(object.kind, Kind::Table | Kind::Shadow | Kind::Internal)
        };
        self.objects.iter().find(is_it)
    }

    /// The roots of all B-trees.
    pub fn roots(&self) -> Vec<u32> {
        let roots = self.objects.iter().map(|object| object.root);
        roots.filter(|root| *root != 0).collect()
    }

    /// The tables in which a virtual table keeps what it has.
    pub fn shadows<'a>(&'a self, table: &'a Object) -> impl Iterator<Item = &'a Object> {
        let (module, _) = table.module();
        let name = table.name.to_ascii_lowercase();
        self.all(Kind::Shadow)
            .filter(move |shadow| is_shadow(&shadow.name.to_ascii_lowercase(), &name, &module))
    }
}

fn object(row: &[Value]) -> Option<Object> {
    let root = match row[3] {
        Value::Integer(root) => u32::try_from(root).ok()?,
        _ => 0,
    };
    let (name, sql) = (text(&row[1]), text(&row[4]));
    let kind = match text(&row[0]).as_str() {
        "table" if name.starts_with("sqlite_") => Kind::Internal,
        "table" if root == 0 => Kind::Virtual,
        "table" => Kind::Table,
        "index" if sql.is_empty() => Kind::AutoIndex,
        "index" => Kind::Index,
        "view" => Kind::View,
        "trigger" => Kind::Trigger,
        _ => return None,
    };
    Some(Object {
        kind,
        name,
        table: text(&row[2]),
        root,
        sql,
    })
}

/// Whether a table is one in which the virtual table `table` keeps what it has. Of a module that is not
/// known every name that begins so is taken for one.
fn is_shadow(name: &str, table: &str, module: &str) -> bool {
    let Some(suffix) = name
        .strip_prefix(table)
        .and_then(|rest| rest.strip_prefix('_'))
    else {
        return false;
    };
    let known: &[&str] = match module {
        "fts5" => &["data", "idx", "content", "docsize", "config"],
        "fts3" | "fts4" => &["content", "segments", "segdir", "docsize", "stat"],
        "rtree" | "rtree_i32" | "geopoly" => &["node", "parent", "rowid"],
        "fts5vocab" | "dbstat" | "sqlite_stmt" => &[],
        _ => return true,
    };
    known.contains(&suffix)
}

/// Module and arguments of `CREATE VIRTUAL TABLE name USING module(arguments)`.
fn module(sql: &str) -> (String, Vec<String>) {
    let tokens = tokens(sql);
    let is_using = |token: &&str| token.eq_ignore_ascii_case("using");
    // The name of the table may be the word as well, and quoted: it is the fourth.
    let Some(at) = tokens.iter().skip(3).position(is_using) else {
        return Default::default();
    };
    let rest = &tokens[at + 4..];
    let module = rest.first().map_or("", |token| token);
    let (mut arguments, mut depth) = (Vec::new(), 0);
    for token in &rest[rest.len().min(1)..] {
        match *token {
            "(" if depth == 0 => {
                depth = 1;
                arguments.push(String::new());
            }
            ")" if depth == 1 => break,
            "," if depth == 1 => arguments.push(String::new()),
            other => {
                match other {
                    "(" => depth += 1,
                    ")" => depth -= 1,
                    _ => {}
                }
                if let Some(argument) = arguments.last_mut() {
                    if !argument.is_empty() {
                        argument.push(' ');
                    }
                    argument.push_str(other);
                }
            }
        }
    }
    (unquoted(module).to_ascii_lowercase(), arguments)
}

/// Words, quoted pieces and single signs of a statement; comments are left out.
fn tokens(sql: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = sql;
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else {
            return tokens;
        };
        let length = match first {
            '"' | '\'' | '`' => quoted_length(rest, first),
            '[' => rest.find(']').map_or(rest.len(), |end| end + 1),
            '-' if rest.starts_with("--") => {
                rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
                continue;
            }
            '/' if rest.starts_with("/*") => {
                rest = &rest[rest.find("*/").map_or(rest.len(), |end| end + 2)..];
                continue;
            }
            first if is_word(first) => rest.find(|sign: char| !is_word(sign)).unwrap_or(rest.len()),
            first => first.len_utf8(),
        };
        let (token, behind) = rest.split_at(length);
        tokens.push(token);
        rest = behind;
    }
}

fn is_word(sign: char) -> bool {
    sign.is_alphanumeric() || sign == '_' || sign == '$' || !sign.is_ascii()
}

/// Bytes of a piece in quotes, doubled ones within it included.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut signs = text.char_indices().skip(1).peekable();
    while let Some((at, sign)) = signs.next() {
        if sign == quote {
            match signs.peek() {
                Some((_, next)) if *next == quote => {
                    signs.next();
                }
                _ => return at + 1,
            }
        }
    }
    text.len()
}

/// A name or a text without its quotes.
pub fn unquoted(token: &str) -> String {
    let token = token.trim();
    let inner = |quote: char, end: char| {
        let inner = token.strip_prefix(quote)?.strip_suffix(end)?;
        Some(inner.replace(&format!("{end}{end}"), &end.to_string()))
    };
    inner('"', '"')
        .or_else(|| inner('\'', '\''))
        .or_else(|| inner('`', '`'))
        .or_else(|| inner('[', ']'))
        .unwrap_or_else(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_and_their_arguments() {
        let found = module("CREATE VIRTUAL TABLE t USING fts5(a, b UNINDEXED, content='x''y')");
        let arguments = ["a", "b UNINDEXED", "content = 'x''y'"];
        assert_eq!(
            found,
            ("fts5".to_owned(), arguments.map(String::from).to_vec())
        );
        let found = module(
            "CREATE VIRTUAL TABLE \"using\" /* using x */ USING\n\"RTree\"(id,minX, f(1,2))",
        );
        let arguments = ["id", "minX", "f ( 1 , 2 )"];
        assert_eq!(
            found,
            ("rtree".to_owned(), arguments.map(String::from).to_vec())
        );
        assert_eq!(module("CREATE VIRTUAL TABLE t USING m").0, "m");
        assert_eq!(unquoted("'it''s'"), "it's");
        assert_eq!(unquoted("[a b]"), "a b");
        assert_eq!(unquoted("plain"), "plain");
    }

    #[test]
    fn tables_of_modules() {
        assert!(is_shadow("note_data", "note", "fts5"));
        assert!(!is_shadow("note_archive", "note", "fts5"));
        assert!(!is_shadow("notes_data", "note", "fts5"));
        assert!(is_shadow("place_anything", "place", "mine"));
        assert!(!is_shadow("words_x", "words", "fts5vocab"));
    }
}
