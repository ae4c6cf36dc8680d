//! Hrana over HTTP, byte by byte: a client that can say anything.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client of one database.
#[derive(Clone)]
pub struct Hrana {
    address: String,
    base: String,
    token: Option<String>,
}

/// What a server answered.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Reply {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of an error of the protocol.
    #[track_caller]
    pub fn code(&self) -> String {
        code(&self.json()).to_string()
    }
}

impl Hrana {
    /// A client of the database at `url`, `http://host:port/name`, or at the root without a name.
    pub fn to(url: &str) -> Hrana {
        let rest = url.strip_prefix("http://").expect("http");
        let (address, name) = rest.split_once('/').unwrap_or((rest, ""));
        let base = match name {
            "" => String::new(),
            name => format!("/{name}"),
        };
        Hrana {
            address: address.to_string(),
            base,
            token: None,
        }
    }

    /// The same with a token.
    pub fn with_token(&self, token: &str) -> Hrana {
        Hrana {
            token: Some(token.to_string()),
            ..self.clone()
        }
    }

    /// Sends a request, and does not wait for its answer.
    pub fn send(&self, method: &str, path: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("connect");
        let token = self.token.as_ref().map_or(String::new(), |token| {
            format!("Authorization: Bearer {token}\r\n")
        });
        let head = format!(
            "{method} {}/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}Content-Length: {}\r\n\r\n",
            self.base,
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("send");
        // A refusal may come before the whole body is taken.
        let _ = stream.write_all(body);
        stream
    }

    /// Sends a request.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        let mut stream = self.send(method, path, body);
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        let mut bytes = Vec::new();
        if let Err(error) = stream.read_to_end(&mut bytes) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{path}");
        }
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        Reply {
            status: status.unwrap_or_else(|| panic!("no HTTP: {text}")),
            head: head.to_lowercase(),
            body: body.to_string(),
        }
    }

    /// Sends requests on a stream.
    #[track_caller]
    pub fn try_pipeline(&self, baton: Option<&str>, requests: Value) -> Reply {
        let body = json!({ "baton": baton, "requests": requests });
        self.ask("POST", "v3/pipeline", body.to_string().as_bytes())
    }

    /// Sends requests on a stream, which must be taken.
    #[track_caller]
    pub fn pipeline(&self, baton: Option<&str>, requests: Value) -> Value {
        let reply = self.try_pipeline(baton, requests);
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    }

    /// Runs one statement on a stream of its own: what it came to, or its error.
    #[track_caller]
    pub fn try_execute(&self, stmt: Value) -> Result<Value, Value> {
        let answer = self.pipeline(None, json!([execute(stmt), {"type": "close"}]));
        assert_eq!(answer["baton"], Value::Null, "{answer}");
        outcome(&answer["results"][0])
    }

    /// The same of a statement without arguments, which must succeed.
    #[track_caller]
    pub fn execute(&self, sql: &str) -> Value {
        self.try_execute(json!({ "sql": sql }))
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The code of the error of a statement, which must fail.
    #[track_caller]
    pub fn refused(&self, sql: &str) -> String {
        match self.try_execute(json!({ "sql": sql })) {
            Ok(result) => panic!("{sql} must be refused: {result}"),
            Err(error) => code(&error).to_string(),
        }
    }

    /// Opens a stream with one statement; its baton.
    #[track_caller]
    pub fn open(&self, sql: &str) -> String {
        let answer = self.pipeline(None, json!([execute(json!({ "sql": sql }))]));
        assert_eq!(answer["results"][0]["type"], "ok", "{answer}");
        baton(&answer)
    }
}

/// The request to run a statement.
pub fn execute(stmt: Value) -> Value {
    json!({ "type": "execute", "stmt": stmt })
}

/// The baton of an answer, which must have one.
#[track_caller]
pub fn baton(answer: &Value) -> String {
    let baton = answer["baton"].as_str();
    baton
        .unwrap_or_else(|| panic!("no baton: {answer}"))
        .to_string()
}

/// What a statement came to.
#[track_caller]
pub fn outcome(result: &Value) -> Result<Value, Value> {
    match result["type"].as_str() {
        Some("ok") => Ok(result["response"]["result"].clone()),
        Some("error") => Err(result["error"].clone()),
        _ => panic!("no result: {result}"),
    }
}

/// The code of an error, which must have a sentence as well.
#[track_caller]
pub fn code(error: &Value) -> &str {
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{error}"
    );
    error["code"]
        .as_str()
        .unwrap_or_else(|| panic!("no code: {error}"))
}
