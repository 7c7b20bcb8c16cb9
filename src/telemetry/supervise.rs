//! Named tasks that live as long as the process, and the end of the process in order.
//!
//! A task that ends or panics on its own takes the process down with its name: a half-dead process looks ready for
//! ever. The end has phases: readiness off and `drain`; after the drain delay `stop`; when everything has stopped,
//! what had to outlive it (the lease, so that nobody takes over while we write).

use super::log::chain;
use std::collections::HashMap;
use std::error::Error;
use std::fmt::Display;
use std::io;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Times of the end.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// From readiness off to the stop: how long clients take to learn of it.
    pub drain: Duration,
    /// How long tasks may take to stop.
    pub stop: Duration,
}

impl Default for Delays {
    fn default() -> Self {
        Self { drain: Duration::from_secs(5), stop: Duration::from_secs(15) }
    }
}

/// Why the process ends, other than by being told to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperviseError {
    /// A task ended that never should.
    #[error("task {name} ended: {reason}")]
    Ended {
        /// Its name.
        name: &'static str,
        /// Its error, its panic, or that there was none.
        reason: String,
    },
    /// Tasks did not stop in time and were cut off.
    #[error("tasks did not stop in time: {0}")]
    Stuck(String),
}

type Outcome = Result<(), String>;

/// A set of tasks with names.
#[derive(Debug, Default)]
struct Tasks {
    set: JoinSet<Outcome>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    fn spawn<E>(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Error + 'static,
    {
        let task = async move { task.await.map_err(|e| chain(&e)) };
        let id = self.set.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits for the next task to end; `None` when there is none left.
    async fn ended(&mut self) -> Option<(&'static str, Outcome)> {
        let joined = self.set.join_next_with_id().await?;
        let (id, outcome) = match joined {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => (error.id(), Err(panic_text(error))),
        };
        Some((self.names.remove(&id).unwrap_or("unnamed"), outcome))
    }

    /// Waits until all have ended, and cuts off those that have not at the deadline. Returns the first failure.
    async fn settle(&mut self, deadline: Instant) -> Result<(), SuperviseError> {
        let mut result = Ok(());
        loop {
            match timeout_at(deadline, self.ended()).await {
                Ok(None) => return result,
                Ok(Some((_, Ok(())))) => {}
                Ok(Some((name, Err(reason)))) => {
                    error!(task = name, error = %reason, "Task failed while stopping");
                    result = result.and(Err(SuperviseError::Ended { name, reason }));
                }
                Err(_) => {
                    let mut stuck: Vec<_> = self.names.drain().map(|(_, name)| name).collect();
                    stuck.sort_unstable();
                    self.set.shutdown().await;
                    warn!(tasks = %stuck.join(", "), "Tasks did not stop in time");
                    return result.and(Err(SuperviseError::Stuck(stuck.join(", "))));
                }
            }
        }
    }
}

fn panic_text(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("it panicked: {}", text.unwrap_or("no reason given"))
        }
        Err(error) => error.to_string(),
    }
}

/// Keeps the tasks of the process.
#[derive(Debug, Default)]
pub struct Supervisor {
    drain: CancellationToken,
    stop: CancellationToken,
    last: CancellationToken,
    tasks: Tasks,
    last_tasks: Tasks,
}

impl Supervisor {
    /// Makes one without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the token of the first phase: readiness goes off, servers close connections after their answers.
    #[must_use]
    pub fn drain(&self) -> CancellationToken {
        self.drain.clone()
    }

    /// Returns the token of the second phase: finish and end.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Returns the token of the third phase, for tasks of [`Supervisor::spawn_last`].
    #[must_use]
    pub fn last(&self) -> CancellationToken {
        self.last.clone()
    }

    /// Starts a task that runs until [`Supervisor::stop`].
    pub fn spawn<E>(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Error + 'static,
    {
        self.tasks.spawn(name, task);
    }

    /// Starts a task that runs until [`Supervisor::last`], after all others have ended.
    pub fn spawn_last<E>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: Error + 'static,
    {
        self.last_tasks.spawn(name, task);
    }

    /// Runs until `end` (see [`termination`]) or until a task ends on its own, then ends everything in order.
    ///
    /// # Errors
    /// When a task ended on its own, failed while stopping, or did not stop in time.
    pub async fn run<T: Display>(
        mut self,
        end: impl Future<Output = T>,
        delays: Delays,
    ) -> Result<(), SuperviseError> {
        let early = |ended: Option<(&'static str, Outcome)>| {
            let (name, outcome) = ended.unwrap_or(("(all)", Ok(())));
            let reason = outcome.err().unwrap_or_else(|| "it returned without being told to".to_owned());
            error!(task = name, error = %reason, "Task ended: stopping");
            SuperviseError::Ended { name, reason }
        };
        let mut result = tokio::select! {
            why = end => {
                info!(reason = %why, "Stopping");
                Ok(())
            }
            ended = self.tasks.ended() => Err(early(ended)),
            ended = self.last_tasks.ended(), if !self.last_tasks.names.is_empty() => Err(early(ended)),
        };
        self.drain.cancel();
        // What still lives goes on: those who have not heard of the end yet are served.
        sleep(delays.drain).await;
        self.stop.cancel();
        let deadline = Instant::now() + delays.stop;
        result = result.and(self.tasks.settle(deadline).await);
        self.last.cancel();
        result.and(self.last_tasks.settle(deadline.max(Instant::now() + delays.stop / 3)).await)
    }
}

/// Listens for SIGTERM and SIGINT from now on; the future returns the name of the first.
///
/// # Errors
/// When the signals cannot be listened to.
pub fn termination() -> io::Result<impl Future<Output = &'static str>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::future::{pending, ready};
    use std::sync::{Arc, Mutex};

    const DELAYS: Delays = Delays { drain: Duration::from_secs(5), stop: Duration::from_secs(15) };

    async fn until(token: CancellationToken) -> Result<(), Infallible> {
        token.cancelled().await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn phases_follow_each_other() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let start = Instant::now();
        let note = |what: &'static str, token: CancellationToken| {
            let order = order.clone();
            async move {
                token.cancelled().await;
                sleep(Duration::from_secs(1)).await;
                order.lock().unwrap().push((what, start.elapsed().as_secs()));
                Ok::<_, Infallible>(())
            }
        };
        let mut supervisor = Supervisor::new();
        let (drain, stop, last) = (supervisor.drain(), supervisor.stop(), supervisor.last());
        let drained = tokio::spawn(note("drain", drain));
        supervisor.spawn("server", note("stop", stop));
        supervisor.spawn_last("lease", note("last", last));
        assert_eq!(supervisor.run(ready("SIGTERM"), DELAYS).await, Ok(()));
        drained.await.unwrap().unwrap();
        assert_eq!(*order.lock().unwrap(), [("drain", 1), ("stop", 6), ("last", 7)]);
    }

    #[tokio::test(start_paused = true)]
    async fn task_that_fails_takes_the_process_down_with_its_name() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("server", until(supervisor.stop()));
        supervisor.spawn("watch", async { Err(io::Error::other("connection lost")) });
        let expected = SuperviseError::Ended { name: "watch", reason: "connection lost".to_owned() };
        assert_eq!(supervisor.run(pending::<&str>(), DELAYS).await, Err(expected));
    }

    #[tokio::test(start_paused = true)]
    async fn task_that_just_ends_or_panics_does_too() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("quiet", ready(Ok::<_, Infallible>(())));
        let ended = supervisor.run(pending::<&str>(), DELAYS).await.unwrap_err();
        assert!(matches!(ended, SuperviseError::Ended { name: "quiet", .. }));
        let start = Instant::now();
        let mut supervisor = Supervisor::new();
        supervisor.spawn("server", until(supervisor.stop()));
        supervisor.spawn_last("lease", async move {
            if Instant::now() >= start {
                panic!("something");
            }
            Ok::<_, Infallible>(())
        });
        let ended = supervisor.run(pending::<&str>(), DELAYS).await.unwrap_err();
        let expected = SuperviseError::Ended { name: "lease", reason: "it panicked: something".to_owned() };
        assert_eq!(ended, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn task_that_does_not_stop_is_cut_off_and_named() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("deaf", pending::<Result<(), Infallible>>());
        supervisor.spawn("server", until(supervisor.stop()));
        let start = Instant::now();
        let stuck = supervisor.run(ready("SIGTERM"), DELAYS).await;
        assert_eq!(stuck, Err(SuperviseError::Stuck("deaf".to_owned())));
        assert_eq!(start.elapsed(), DELAYS.drain + DELAYS.stop);
    }
}
