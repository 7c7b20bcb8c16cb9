//! Who is connected, and who goes when there is no room left.
//!
//! Whoever reaches the port can open connections. When all are taken, one of the peer that has the most is ended, the one that
//! has said nothing for longest first: a peer with few of them, such as the API server, keeps its own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// One connection.
#[derive(Debug)]
struct Connection {
    peer: IpAddr,
    /// When its last request ended; `None` while one is under way.
    idle_since: Option<Instant>,
    cut: CancellationToken,
}

/// All connections of one listener.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    last: u64,
    connections: HashMap<u64, Connection>,
}

/// A connection's place; it is given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    crowd: Crowd,
    /// The connection is to end.
    pub(super) cut: CancellationToken,
}

impl Crowd {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a new connection in. With `most` of them there one goes; whether that was so is returned too.
    pub(super) fn join(&self, peer: IpAddr, most: usize) -> (Place, bool) {
        let mut state = self.state();
        let full = state.connections.len() >= most;
        if full && let Some(number) = state.goes() {
            // Its place is given back when it has ended; from now on it does not count.
            if let Some(connection) = state.connections.remove(&number) {
                connection.cut.cancel();
            }
        }
        state.last += 1;
        let (number, cut) = (state.last, CancellationToken::new());
        let connection = Connection { peer, idle_since: Some(Instant::now()), cut: cut.clone() };
        state.connections.insert(number, connection);
        drop(state);
        (Place { number, crowd: self.clone(), cut }, full)
    }
}

impl State {
    /// Which one goes first: of the peer with the most, idle before busy, the longest idle or the oldest first.
    fn goes(&self) -> Option<u64> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for connection in self.connections.values() {
            *counts.entry(connection.peer).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        let of_the_most = self.connections.iter().filter(|(_, c)| counts.get(&c.peer) == Some(&most));
        let (number, _) =
            of_the_most.min_by_key(|(number, c)| (c.idle_since.is_none(), c.idle_since, **number))?;
        Some(*number)
    }
}

impl Place {
    /// Says whether a request is under way.
    pub(super) fn busy(&self, busy: bool) {
        if let Some(connection) = self.crowd.state().connections.get_mut(&self.number) {
            connection.idle_since = (!busy).then(Instant::now);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.state().connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const API_SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn whoever_has_most_makes_room_and_the_longest_idle_first() {
        let crowd = Crowd::default();
        let (api_server, _) = crowd.join(API_SERVER, 4);
        let strangers: Vec<Place> = (0..3).map(|_| crowd.join(STRANGER, 4).0).collect();
        strangers[0].busy(true);
        let (_one_more, full) = crowd.join(STRANGER, 4);
        assert!(full);
        let ended =
            |places: &[Place]| places.iter().map(|place| place.cut.is_cancelled()).collect::<Vec<_>>();
        assert_eq!(ended(&strangers), [false, true, false]);
        let (second, full) = crowd.join(API_SERVER, 4);
        assert!(full && ended(&strangers) == [false, true, true]);
        assert!(!api_server.cut.is_cancelled() && !second.cut.is_cancelled());
        drop(strangers);
        assert!(!crowd.join(API_SERVER, 4).1, "places are given back");
    }

    #[test]
    fn busy_ones_go_where_no_other_is() {
        let crowd = Crowd::default();
        let busy: Vec<Place> = (0..2).map(|_| crowd.join(STRANGER, 2).0).collect();
        busy.iter().for_each(|place| place.busy(true));
        let (new, _) = crowd.join(API_SERVER, 2);
        assert!(busy[0].cut.is_cancelled() && !busy[1].cut.is_cancelled() && !new.cut.is_cancelled());
    }
}
