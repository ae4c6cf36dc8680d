//! One accepted connection, from its first request to its close.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::places::{Place, Visit};

/// How long a connection may take for a request's head, and so also how long it may be idle: a
/// little longer than a replica keeps one.
const IDLE: Duration = Duration::from_secs(20);

/// How long the other side may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a reader may take for [`STEP`] bytes of an answer, which lies in memory meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a reader has to take in that time.
const STEP: usize = 64 << 10;

/// The longest request head.
const HEAD_BYTES: usize = 16 << 10;

/// The first byte of TLS.
const HANDSHAKE_RECORD: u8 = 22;

/// What someone is told who speaks plain HTTP where TLS is spoken.
const SPEAK_TLS: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 53\r\nConnection: close\r\n\r\n\
    this address is served over TLS: the URL is https://\n";

/// Serves a connection until it ends, is idle for too long, has to make place, or the server
/// stops.
pub(super) async fn serve(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    place: Place,
    stopped: watch::Receiver<bool>,
) {
    let visit = Arc::clone(&place.0);
    let mut told = stopped.clone();
    let conversation = async {
        // Without it an answer can wait for the acknowledgement of its own head.
        let _ = stream.set_nodelay(true);
        match tls {
            None => converse(Patient::new(stream), router, &visit, stopped).await,
            Some(acceptor) => {
                let shaken = timeout(HANDSHAKE, handshake(stream, acceptor));
                let shaken = tokio::select! {
                    shaken = shaken => shaken,
                    _ = told.wait_for(|stopped| *stopped) => return,
                };
                if let Ok(Some(stream)) = shaken {
                    converse(stream, router, &visit, stopped).await;
                }
            }
        }
    };
    tokio::select! {
        () = conversation => {}
        () = visit.told_to_close() => {}
    }
}

async fn handshake(
    mut stream: TcpStream,
    acceptor: TlsAcceptor,
) -> Option<impl AsyncRead + AsyncWrite + Unpin> {
    let mut first = [0];
    if stream.peek(&mut first).await.ok()? == 1 && first[0] != HANDSHAKE_RECORD {
        let _ = stream.write_all(SPEAK_TLS.as_bytes()).await;
        let _ = stream.shutdown().await;
        // Until the other side has read it: a reset would overtake the sentence.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        return None;
    }
    acceptor.accept(Patient::new(stream)).await.ok()
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    visit: &Arc<Visit>,
    mut stopped: watch::Receiver<bool>,
) {
    let service = Visited {
        router: TowerToHyperService::new(router),
        visit: Arc::clone(visit),
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Vectored writes go without MSG_NOSIGNAL, and SIGPIPE ends a host that does not ignore it.
        .writev(false)
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// Tells each request which connection it came by.
struct Visited {
    router: TowerToHyperService<Router>,
    visit: Arc<Visit>,
}

impl Service<hyper::Request<Incoming>> for Visited {
    type Response = <TowerToHyperService<Router> as Service<hyper::Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<hyper::Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<hyper::Request<Incoming>>>::Future;

    fn call(&self, mut request: hyper::Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(Arc::clone(&self.visit));
        self.router.call(request)
    }
}

/// A stream whose writes fail when the reader takes too little for too long.
struct Patient<T> {
    stream: T,
    patience: Duration,
    deadline: Pin<Box<Sleep>>,
    /// What the reader took since a write first had to wait; `None` when none has.
    taken: Option<usize>,
}

impl<T> Patient<T> {
    fn new(stream: T) -> Self {
        Self::with_patience(stream, PATIENCE)
    }

    fn with_patience(stream: T, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            deadline: Box::pin(sleep(patience)),
            taken: None,
        }
    }

    /// Passes on what a write came to, unless too little was taken for too long.
    fn watch(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = written {
            // A step is taken: the next wait begins anew.
            self.taken = self
                .taken
                .map(|taken| taken + count)
                .filter(|taken| *taken < STEP);
        }
        if written.is_pending() && self.taken.is_none() {
            self.taken = Some(0);
            self.deadline.as_mut().reset(Instant::now() + self.patience);
        }
        match self.taken {
            // Looked at after a write as well: one byte at a time is too slow.
            Some(_) if self.deadline.as_mut().poll(context).is_ready() => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            _ => written,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

/// Without vectored writes, which go without MSG_NOSIGNAL: SIGPIPE ends a host that does not ignore
/// it.
impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Called when all was written.
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.taken = None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_reader_that_takes_nothing_is_given_up() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let error = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let (_reader, _) = listener.accept().await.unwrap();
            let mut stream = Patient::with_patience(stream, Duration::from_millis(100));
            loop {
                let written =
                    poll_fn(|context| Pin::new(&mut stream).poll_write(context, &[0; 65536]));
                if let Err(error) = written.await {
                    return error;
                }
            }
        });
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
