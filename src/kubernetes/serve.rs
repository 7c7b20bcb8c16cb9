//! The accept loop: HTTP/1.1, over TLS for the webhook and plain for metrics and health.
//!
//! A stop has two phases. From `drain` on every answer says `Connection: close`, while new connections are still
//! taken: clients learn of the stop late (readiness has to travel through EndpointSlices) and the API server keeps
//! using its open connections to a terminating pod (kubernetes#127335). From `stop` on no connection is taken,
//! requests under way are finished, and what is left at the deadline is cut.

use super::crowd::{Crowd, Place};
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use futures::FutureExt as _;
use http::header::{CONNECTION, HeaderValue};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::{debug, warn};

/// What peers may take up.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections. For one more, one of the peer with the most is ended.
    pub connections: usize,
    /// Counts those that are ended for that.
    pub shed: Counter,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time from an open connection to the end of its first request's head.
    pub first_head: Duration,
    /// Time from an answer to the end of the next request's head. Longer than clients keep an idle connection
    /// (Go: 90 s), so that it is they who close it and no request meets a closing connection.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            shed: Counter::default(),
            handshake: Duration::from_secs(10),
            first_head: Duration::from_secs(10),
            idle: Duration::from_secs(120),
        }
    }
}

/// When a server stops.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// From then on answers close their connection.
    pub drain: CancellationToken,
    /// From then on no connection is accepted.
    pub stop: CancellationToken,
    /// How long after `stop` requests under way may take.
    pub deadline: Duration,
}

/// Serves over TLS until shutdown.
pub async fn serve_tls(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    app: Router,
    limits: Limits,
    shutdown: Shutdown,
) {
    serve(listener, Some(TlsAcceptor::from(tls)), app, limits, shutdown).await;
}

/// Serves plain HTTP until shutdown.
pub async fn serve_plain(listener: TcpListener, app: Router, limits: Limits, shutdown: Shutdown) {
    serve(listener, None, app, limits, shutdown).await;
}

/// What every connection task needs.
#[derive(Clone)]
struct Shared {
    tls: Option<TlsAcceptor>,
    app: Router,
    limits: Limits,
    shutdown: Shutdown,
}

async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    app: Router,
    limits: Limits,
    shutdown: Shutdown,
) {
    let shared = Shared { tls, app, limits: limits.clone(), shutdown: shutdown.clone() };
    let (tracker, cut, crowd) = (TaskTracker::new(), CancellationToken::new(), Crowd::default());
    let start = |stream: TcpStream, peer: SocketAddr| {
        let (place, full) = crowd.join(peer.ip().to_canonical(), limits.connections);
        if full {
            limits.shed.inc();
        }
        let (shared, cut) = (shared.clone(), cut.clone());
        tracker.spawn(async move {
            let shed = place.cut.clone();
            cut.run_until_cancelled(shed.run_until_cancelled(connection(stream, shared, place))).await;
        });
    };
    loop {
        tokio::select! {
            biased;
            () = shutdown.stop.cancelled() => break,
            result = listener.accept() => match result {
                Ok((stream, peer)) => start(stream, peer),
                Err(error) => {
                    // Of the connection (gone before it was taken), or of us (no file descriptors: wait for some).
                    warn!(error = &error as &dyn std::error::Error, "Accepting a connection failed");
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    // Those that the kernel has completed already would be reset with the listener: serve them too.
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        start(stream, peer);
    }
    drop(listener);
    tracker.close();
    if timeout(shutdown.deadline, tracker.wait()).await.is_err() {
        warn!(connections = tracker.len(), "Connections are cut: their requests took too long");
        cut.cancel();
        tracker.wait().await;
    }
}

async fn connection(stream: TcpStream, shared: Shared, place: Place) {
    // Answers are small and waited for.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(error = &error as &dyn std::error::Error, "Connection ended early");
        return;
    }
    let Some(acceptor) = shared.tls.clone() else { return exchange(stream, shared, place).await };
    match timeout(shared.limits.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => exchange(stream, shared, place).await,
        // Port scans and probes do this all the time.
        Ok(Err(error)) => debug!(error = &error as &dyn std::error::Error, "TLS handshake failed"),
        Err(_) => debug!("TLS handshake took too long"),
    }
}

async fn exchange<S>(stream: S, shared: Shared, place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Shared { app, limits, shutdown, .. } = shared;
    let (seen, mut requests) = watch::channel(false);
    let drain = shutdown.drain;
    let place = Arc::new(place);
    let service = service_fn(move |request: http::Request<Incoming>| {
        seen.send_replace(true);
        place.busy(true);
        let (app, drain, place) = (app.clone(), drain.clone(), place.clone());
        async move {
            let answer = app.oneshot(request.map(Body::new)).await;
            place.busy(false);
            let mut answer: Response = answer?;
            if drain.is_cancelled() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(limits.idle);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    let mut stopping = false;
    let mut first_head = pin!(async move {
        if timeout(limits.first_head, requests.wait_for(|seen| *seen)).await.is_ok() {
            std::future::pending::<()>().await;
        }
    });
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    debug!(error = &error as &dyn std::error::Error, "Connection ended in an error");
                }
                return;
            }
            () = &mut first_head => return debug!("No request came"),
            () = shutdown.stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::io;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;

    struct Server {
        address: SocketAddr,
        shutdown: Shutdown,
        task: JoinHandle<()>,
    }

    async fn server(app: Router, limits: Limits, deadline: Duration) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown { drain: CancellationToken::new(), stop: CancellationToken::new(), deadline };
        let task = tokio::spawn(serve_plain(listener, app, limits, shutdown.clone()));
        Server { address, shutdown, task }
    }

    fn slow(pause: Duration) -> Router {
        Router::new().route(
            "/",
            get(move || async move {
                sleep(pause).await;
                "done"
            }),
        )
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// Sends one request and returns its answer, read to the end of the body `done`.
    async fn ask(stream: &mut TcpStream) -> io::Result<String> {
        stream.write_all(REQUEST).await?;
        let mut text = Vec::new();
        let mut buffer = [0; 1024];
        while !text.ends_with(b"done") {
            match stream.read(&mut buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => text.extend_from_slice(&buffer[..n]),
            }
        }
        Ok(String::from_utf8_lossy(&text).to_lowercase())
    }

    #[tokio::test]
    async fn draining_server_takes_connections_and_closes_each_after_its_answer() {
        let server = server(slow(Duration::ZERO), Limits::default(), Duration::from_secs(5)).await;
        let mut kept = TcpStream::connect(server.address).await.unwrap();
        assert!(!ask(&mut kept).await.unwrap().contains("connection: close"));
        server.shutdown.drain.cancel();
        assert!(ask(&mut kept).await.unwrap().contains("connection: close"));
        assert_eq!(kept.read(&mut [0; 1]).await.unwrap(), 0);
        let mut new = TcpStream::connect(server.address).await.unwrap();
        assert!(ask(&mut new).await.unwrap().contains("connection: close"));
        server.shutdown.stop.cancel();
        server.task.await.unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    }

    #[tokio::test]
    async fn stopping_server_finishes_what_is_under_way_and_no_more() {
        let (entered, mut requests) = watch::channel(0);
        let (release, gate) = watch::channel(false);
        let app = Router::new().route(
            "/",
            get(move || {
                entered.send_modify(|n| *n += 1);
                let mut gate = gate.clone();
                async move {
                    gate.wait_for(|open| *open).await.unwrap();
                    "done"
                }
            }),
        );
        let server = server(app, Limits::default(), Duration::from_secs(30)).await;
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        let mut busy = TcpStream::connect(server.address).await.unwrap();
        let answer = tokio::spawn(async move { ask(&mut busy).await });
        requests.wait_for(|n| *n == 1).await.unwrap();
        server.shutdown.drain.cancel();
        server.shutdown.stop.cancel();
        assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0, "an idle connection is closed");
        assert!(!server.task.is_finished());
        release.send_replace(true);
        assert!(answer.await.unwrap().unwrap().contains("connection: close"));
        server.task.await.unwrap();
    }

    #[tokio::test]
    async fn what_outlives_the_deadline_is_cut() {
        let server =
            server(slow(Duration::from_secs(3600)), Limits::default(), Duration::from_millis(50)).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        server.shutdown.stop.cancel();
        server.task.await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn silent_connection_is_dropped_and_gives_its_slot_to_the_next() {
        let limits = Limits { connections: 1, first_head: Duration::from_millis(50), ..Limits::default() };
        let server = server(slow(Duration::ZERO), limits, Duration::from_secs(5)).await;
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        silent.write_all(b"GET / HT").await.unwrap();
        let mut next = TcpStream::connect(server.address).await.unwrap();
        ask(&mut next).await.unwrap();
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }

    /// Whoever reaches the port can take up connections: nobody is kept out by that.
    #[tokio::test]
    async fn the_next_is_served_although_all_connections_are_taken() {
        let limits = Limits { connections: 2, ..Limits::default() };
        let shed = limits.shed.clone();
        let server = server(slow(Duration::ZERO), limits, Duration::from_secs(5)).await;
        let mut idle = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            ask(&mut stream).await.unwrap();
            idle.push(stream);
        }
        let mut next = TcpStream::connect(server.address).await.unwrap();
        ask(&mut next).await.unwrap();
        assert_eq!(shed.get(), 1);
        assert_eq!(idle[0].read(&mut [0; 1]).await.unwrap_or(0), 0, "the longest idle one is ended");
        ask(&mut idle[1]).await.unwrap();
    }

    /// Two replicas; clients prefer one until it says that it is not ready, and learn of that late.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn drain_under_load_loses_no_request() {
        let app = || slow(Duration::from_millis(2));
        let leaving = server(app(), Limits::default(), Duration::from_secs(10)).await;
        let staying = server(app(), Limits::default(), Duration::from_secs(10)).await;
        let (first, second) = (leaving.address, staying.address);
        let (served, done) = (Arc::new(watch::channel(0_u32).0), CancellationToken::new());
        let (known, routes) = watch::channel(first);
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let (served, done, routes) = (served.clone(), done.clone(), routes.clone());
                tokio::spawn(async move {
                    let mut open: Option<(SocketAddr, TcpStream)> = None;
                    while !done.is_cancelled() {
                        let to = *routes.borrow();
                        let mut stream = match open.take() {
                            Some((address, stream)) if address == to => stream,
                            _ => TcpStream::connect(to).await?,
                        };
                        let answer = ask(&mut stream).await?;
                        open = (!answer.contains("connection: close")).then_some((to, stream));
                        served.send_modify(|n| *n += 1);
                    }
                    io::Result::Ok(())
                })
            })
            .collect();
        let mut count = served.subscribe();
        let mut more = async |n: u32| {
            let until = *count.borrow() + n;
            count.wait_for(|served| *served >= until).await.unwrap();
        };
        more(100).await;
        leaving.shutdown.drain.cancel();
        more(100).await;
        known.send_replace(second);
        more(100).await;
        leaving.shutdown.stop.cancel();
        leaving.task.await.unwrap();
        more(100).await;
        done.cancel();
        for client in clients {
            client.await.unwrap().unwrap();
        }
    }
}
