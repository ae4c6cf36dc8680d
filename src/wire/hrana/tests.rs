//! The encoding, against text as other peers write it.

use super::*;

fn value(text: &str) -> std::result::Result<Value, serde_json::Error> {
    serde_json::from_str(text)
}

#[test]
fn values_are_written_as_they_are_read() {
    for (text, expected) in [
        (r#"{"type":"null"}"#, Value::Null),
        (
            r#"{"type":"integer","value":"-9223372036854775808"}"#,
            Value::Integer(i64::MIN),
        ),
        (r#"{"type":"float","value":1.5}"#, Value::Float(1.5)),
        (
            r#"{"type":"float","value":-1e999}"#,
            Value::Float(f64::NEG_INFINITY),
        ),
        (
            r#"{"type":"text","value":"a\"\u0000ü"}"#,
            Value::Text("a\"\0ü".to_owned()),
        ),
        (
            r#"{"type":"blob","base64":"AP8="}"#,
            Value::Blob(vec![0, 255]),
        ),
    ] {
        assert_eq!(value(text).unwrap(), expected, "{text}");
        assert_eq!(serde_json::to_string(&expected).unwrap(), text);
    }
    // Fields in any order, unknown ones, whole numbers, and base64 without padding.
    assert_eq!(
        value(r#"{"value":3,"more":[{}],"type":"float"}"#).unwrap(),
        Value::Float(3.0)
    );
    assert_eq!(
        value(r#"{"type":"blob","base64":"AP8"}"#).unwrap(),
        Value::Blob(vec![0, 255])
    );
}

#[test]
fn wrong_values_are_refused() {
    for text in [
        r#"{"type":"integer","value":1}"#,
        r#"{"type":"integer","value":"9223372036854775808"}"#,
        r#"{"type":"integer","value":"one"}"#,
        r#"{"type":"float","value":"1.5"}"#,
        r#"{"type":"float"}"#,
        r#"{"type":"text","value":null}"#,
        r#"{"type":"blob","base64":"?"}"#,
        r#"{"type":"blob","value":"AP8="}"#,
        r#"{"type":"date"}"#,
        r#"{"value":"1"}"#,
        "1",
        "null",
    ] {
        assert!(value(text).is_err(), "{text}");
    }
}

#[test]
fn requests_are_read() {
    let text = r#"{"baton":null,"unknown":1,"requests":[
        {"type":"store_sql","sql_id":1,"sql":"SELECT ?"},
        {"type":"execute","stmt":{"sql_id":1,"args":[{"type":"integer","value":"1"}],"want_rows":false}},
        {"type":"batch","batch":{"steps":[
            {"stmt":{"sql":"BEGIN"}},
            {"condition":{"type":"and","conds":[{"type":"ok","step":0},{"type":"not","cond":{"type":"is_autocommit"}}]},
             "stmt":{"sql":"COMMIT","named_args":[{"name":"a","value":{"type":"null"}}]}}]}},
        {"type":"sequence","sql":"SELECT 1; SELECT 2"},
        {"type":"describe","sql_id":1},
        {"type":"close_sql","sql_id":1},
        {"type":"get_autocommit"},
        {"type":"close"}]}"#;
    let request: PipelineRequest = serde_json::from_str(text).unwrap();
    assert_eq!(request.requests.len(), 8);
    let StreamRequest::Batch(batch) = &request.requests[2] else {
        panic!("{:?}", request.requests[2]);
    };
    let condition = batch.steps[1].condition.as_ref().unwrap();
    assert_eq!(condition.last_step(), Some(0));
    for wrong in [
        "{}",
        "[]",
        r#"{"requests":[{"type":"execute"}]}"#,
        r#"{"requests":[{"type":"open_stream"}]}"#,
        r#"{"requests":[{"type":"store_sql","sql":"x"}]}"#,
        r#"{"requests":[{"type":"batch","batch":{"steps":[{"condition":{"type":"ok"},"stmt":{}}]}}]}"#,
        r#"{"requests":[{"type":"batch","batch":{"steps":[{"condition":{"type":"ok","step":-1},"stmt":{}}]}}]}"#,
    ] {
        assert!(
            serde_json::from_str::<PipelineRequest>(wrong).is_err(),
            "{wrong}"
        );
    }
}

/// Nesting is bounded by the JSON reader.
#[test]
fn deep_conditions_do_not_end_the_process() {
    let deep = format!(
        r#"{{"requests":[{{"type":"batch","batch":{{"steps":[{{"stmt":{{}},"condition":{}{}{}}}]}}}}]}}"#,
        r#"{"type":"not","cond":"#.repeat(100_000),
        r#"{"type":"is_autocommit"}"#,
        "}".repeat(100_000)
    );
    assert!(serde_json::from_str::<PipelineRequest>(&deep).is_err());
}

#[test]
fn answers_are_written_as_the_protocol_has_them() {
    let response = PipelineResponse {
        baton: Some("b".to_owned()),
        base_url: None,
        results: vec![
            StreamResult::Ok {
                response: StreamResponse::Execute {
                    result: StmtResult {
                        cols: vec![Col {
                            name: Some("x".to_owned()),
                            decltype: None,
                        }],
                        rows: vec![vec![Value::Float(f64::INFINITY)]],
                        affected_row_count: 0,
                        last_insert_rowid: Some("7".to_owned()),
                    },
                },
            },
            StreamResult::Error {
                error: Error::sqlite(2067, "UNIQUE constraint failed: t.a"),
            },
            StreamResult::Ok {
                response: StreamResponse::GetAutocommit {
                    is_autocommit: true,
                },
            },
        ],
        position: None,
    };
    assert_eq!(
        serde_json::to_string(&response).unwrap(),
        concat!(
            r#"{"baton":"b","base_url":null,"results":["#,
            r#"{"type":"ok","response":{"type":"execute","result":{"cols":[{"name":"x","decltype":null}],"#,
            r#""rows":[[{"type":"float","value":1e999}]],"affected_row_count":0,"last_insert_rowid":"7"}}},"#,
            r#"{"type":"error","error":{"message":"UNIQUE constraint failed: t.a","code":"SQLITE_CONSTRAINT","#,
            r#""extended_code":2067}},"#,
            r#"{"type":"ok","response":{"type":"get_autocommit","is_autocommit":true}}]}"#,
        )
    );
}

#[test]
fn codes_have_their_names() {
    assert_eq!(name(517), "SQLITE_BUSY");
    assert_eq!(name(999), "SQLITE_UNKNOWN");
    assert_eq!(code("SQLITE_CONSTRAINT"), Some(19));
    assert_eq!(code("STREAM_EXPIRED"), None);
}
