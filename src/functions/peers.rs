//! `replica_peers`: who follows the databases that are served here.

use super::table::{Row, Rows};
use crate::error::Result;
use crate::ffi::HostConnection;
use crate::primary::followers::Followers;
use crate::primary::peers::Peer;
use crate::primary::serve;
use crate::primary::server::Service;
use crate::wire::PeerId;

/// The table.
pub struct PeerRows;

impl Rows for PeerRows {
    const COLUMNS: &'static str = "schema TEXT, peer TEXT, address TEXT, token INTEGER, \
        position TEXT, lag_transactions INTEGER, lag_seconds REAL, last_seen INTEGER, \
        waiting INTEGER, bytes_sent INTEGER, bytes_received INTEGER";

    /// One row for each replica that follows a schema of the connection.
    fn rows(connection: HostConnection, _: Option<&str>) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for schema in connection.schemas()? {
            let served = connection.path(&schema).and_then(|path| serve::find(&path));
            if let Some(served) = served {
                let followers = served.primary.followers();
                let mut peers = followers.peers.list();
                peers.sort_by_key(|(id, _)| id.0);
                let row = |(id, peer)| row(&schema, &followers, id, peer);
                rows.extend(peers.into_iter().map(row));
            }
        }
        Ok(rows)
    }
}

fn row(schema: &str, followers: &Followers, id: PeerId, peer: Peer) -> Row {
    let newest = followers.newest.head().position.lsn;
    let lsn = peer.position.map(|position| position.lsn);
    let behind = lsn.map(|lsn| followers.newest.behind(lsn) as f64 / 1000.0);
    vec![
        schema.into(),
        id.to_string().into(),
        peer.origin.address.to_string().into(),
        peer.origin.token.into(),
        peer.position.map(|position| position.to_string()).into(),
        lsn.map(|lsn| newest.0.saturating_sub(lsn.0)).into(),
        behind.into(),
        (peer.seen / 1000).into(),
        (peer.waiting > 0).into(),
        peer.sent.into(),
        peer.received.into(),
    ]
}
