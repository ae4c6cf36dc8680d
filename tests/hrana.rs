//! SQL over HTTP on a primary, by a client that says every byte itself and by libSQL's own.

#[path = "hrana/limits.rs"]
mod limits;
#[path = "hrana/protocol.rs"]
mod protocol;
#[path = "hrana/replicas.rs"]
mod replicas;
#[path = "hrana/trust.rs"]
mod trust;

use harness::{Hrana, Primary, json as member};
use serde_json::{Value, json};

fn client(primary: &Primary) -> Hrana {
    Hrana::to(primary.url())
}

/// A token of `scope`.
fn token(primary: &mut Primary, scope: &str) -> String {
    let answer = primary.sql(&format!("SELECT replica_token('{scope}', 3600)"));
    member(&answer, "$.token")
}

fn primary_count(client: &Hrana, table: &str) -> String {
    let result = client.execute(&format!("SELECT count(*) FROM {table}"));
    result["rows"][0][0]["value"]
        .as_str()
        .expect("a count")
        .to_string()
}

fn step(sql: &str, condition: Value) -> Value {
    json!({ "stmt": { "sql": sql }, "condition": condition })
}
