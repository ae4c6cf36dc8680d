//! A primary, and a replica of it in one host, with checks of what the host is told.

use std::path::PathBuf;

use harness::messages::Messages;
use harness::{Client, Kind, Primary, Trouble, assert_same, directory, free_port, image, json};
use tempfile::TempDir;

/// What an application writes.
pub const INSERT: &str = "INSERT INTO word(id) VALUES (1)";

/// What SQLite is to return, and what the sentence is to say; the sentence also names what it is about.
pub struct Told<'a> {
    pub code: i32,
    pub says: &'a str,
    pub names: &'a str,
}

/// Fails unless `sql` is refused in these terms, without any of the secrets. The shell tells primary codes only.
#[track_caller]
pub fn refused(client: &mut Client, sql: &str, told: &Told<'_>, secrets: &[String]) {
    let kind = client.kind();
    let failure = match client.sql(sql) {
        Err(Trouble::Refused(failure)) => failure,
        other => panic!("{kind:?}: {sql} must be refused: {other:?}"),
    };
    let sentence = client.last_error();
    println!(
        "{kind:?}: {sql}: {} ({}): {sentence}",
        failure.code, failure.message
    );
    let code = match kind {
        Kind::Shell => told.code & 0xff,
        _ => told.code,
    };
    assert_eq!(
        failure.code, code,
        "{kind:?}: {sql}: {failure:?}: {sentence}"
    );
    assert!(
        sentence.contains(told.says) && sentence.contains(told.names),
        "{kind:?}: {sql}: {sentence:?} says {:?} of {:?}?",
        told.says,
        told.names
    );
    for secret in secrets {
        let is_told = [&sentence, &failure.message]
            .iter()
            .any(|text| text.contains(secret));
        assert!(
            !is_told,
            "{kind:?}: {sql}: a secret in {failure:?}: {sentence}"
        );
    }
}

/// The primary, what lies between, and the replica.
pub struct Scene {
    pub directory: TempDir,
    pub app: PathBuf,
    pub copy: PathBuf,
    pub primary: Primary,
    /// Knows what is sent, and loses it.
    pub relay: Messages,
    /// What the replica follows: the relay, or the primary itself.
    pub url: String,
    pub client: Client,
    pub secrets: Vec<String>,
}

impl Scene {
    /// A replica behind the relay.
    pub fn new(kind: Kind, parameters: &str) -> Scene {
        Scene::on(Client::start(kind), parameters)
    }

    /// A replica in this host, behind the relay.
    pub fn on(client: Client, parameters: &str) -> Scene {
        Scene::made(client, parameters, None, true)
    }

    /// A replica that has the primary's own address.
    pub fn without_relay(kind: Kind, parameters: &str) -> Scene {
        Scene::made(Client::start(kind), parameters, None, false)
    }

    /// A replica with a token, and the number of that.
    pub fn with_token(kind: Kind, scope: &str) -> (Scene, String) {
        let scene = Scene::made(Client::start(kind), "sync_timeout=2", Some(scope), true);
        (scene, "1".to_string())
    }

    fn made(mut client: Client, parameters: &str, scope: Option<&str>, relayed: bool) -> Scene {
        let directory = directory();
        let app = directory.path().join("app.db");
        let copy = directory.path().join("replica.db");
        image::create(&app)
            .execute_batch(
                "PRAGMA journal_mode = WAL; CREATE TABLE word(number INTEGER PRIMARY KEY, id INTEGER, text BLOB);",
            )
            .expect("words");
        let mut primary = Primary::start_at(&app, &format!("127.0.0.1:{}", free_port()));
        let relay = Messages::to(primary.address());
        let url = match relayed {
            true => relay.url("app"),
            false => primary.url().to_string(),
        };
        let (mut parameters, mut secrets) = (format!("sync_url={url}&{parameters}"), Vec::new());
        if let Some(scope) = scope {
            let answer = primary.sql(&format!("SELECT replica_token('{scope}', 3600)"));
            let token = json(&answer, "$.token");
            parameters += &format!("&auth_token={token}");
            // The number before it is none.
            secrets.push(token.rsplit('_').next().expect("a secret").to_string());
        }
        client.open(&copy, &parameters).expect("a replica");
        client.done("SELECT replica_sync()");
        client.done("PRAGMA busy_timeout = 0");
        relay.take_seen();
        Scene {
            directory,
            app,
            copy,
            primary,
            relay,
            url,
            client,
            secrets,
        }
    }

    /// Fails unless the replica's host is refused `sql` with this code and a sentence that names the remote.
    #[track_caller]
    pub fn refused(&mut self, sql: &str, code: i32, says: &str) {
        let names = &self.url;
        refused(
            &mut self.client,
            sql,
            &Told { code, says, names },
            &self.secrets,
        );
    }

    /// The same for a sentence about the replica's file.
    #[track_caller]
    pub fn refused_here(&mut self, sql: &str, code: i32, says: &str) {
        let names = self.copy.to_str().expect("UTF-8");
        refused(
            &mut self.client,
            sql,
            &Told { code, says, names },
            &self.secrets,
        );
    }

    /// An open transaction that has written.
    #[track_caller]
    pub fn begin(&mut self) {
        self.client.insist("BEGIN IMMEDIATE");
        self.client.done(INSERT);
    }

    /// Words on the primary, and here.
    #[track_caller]
    pub fn count(&mut self) -> (String, String) {
        let count = "SELECT count(*) FROM word";
        (self.primary.sql(count), self.client.done(count))
    }

    /// Nothing is open, one transaction goes through, and both sides have the same `words` then.
    #[track_caller]
    pub fn assert_goes_on(&mut self, words: u32) {
        let context = format!("{:?}", self.client.kind());
        loop {
            self.begin();
            match self.client.sql("COMMIT") {
                Ok(_) => break,
                // Another one came first.
                Err(trouble) => assert!(trouble.is_busy(), "{context}: {trouble:?}"),
            }
        }
        self.client.done("SELECT replica_sync()");
        let words = words.to_string();
        assert_eq!(self.count(), (words.clone(), words), "{context}");
        assert_eq!(self.client.done("SELECT state FROM replica_status"), "ok");
        assert_same(&self.app, &self.copy, &context);
    }
}
