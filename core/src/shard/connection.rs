//! One client connection as its shard sees it: requests in, answers out in the same order.
//!
//! Owned by its shard. Answers may become ready in any order; [`Connection::take_ready`] gives them
//! out in request order, which is what the protocol asks for. A request that wants no answer
//! (acks=0) only takes its place in the order.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Charge, Response};
use crate::request_context::ConnectionContext;

/// Requests of one connection that may be under way; beyond it the socket is not read.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 64;

enum Place {
    Waiting,
    Ready(Response),
    Nothing,
    /// Nothing behind it is sent; the connection closes when what is before it is out.
    Close,
}

/// See the file's head.
pub struct Connection {
    /// Who and where from; shared by the contexts of its requests.
    pub context: Arc<ConnectionContext>,
    /// Index of the listener it came in on.
    pub listener: usize,
    /// Its fetches that wait, by their pending ids.
    pub fetches: Vec<u64>,
    /// As its last request named it.
    client_id: Arc<str>,
    first: u64,
    places: VecDeque<Place>,
    /// When its last request came, on the shard's monotonic clock.
    pub active_ms: u64,
    /// Nothing more is read.
    closing: bool,
    /// Counts fetches.
    fetch_turn: usize,
}

impl Connection {
    /// A connection without requests.
    pub fn new(context: Arc<ConnectionContext>, listener: usize, now_ms: u64) -> Self {
        Self {
            context,
            listener,
            active_ms: now_ms,
            fetches: Vec::new(),
            client_id: Arc::default(),
            first: 0,
            places: VecDeque::new(),
            closing: false,
            fetch_turn: 0,
        }
    }

    /// Whether another request may be started.
    pub fn has_room(&self) -> bool {
        !self.closing && self.places.len() < REQUESTS_IN_FLIGHT_MAX
    }

    /// Whether no request is under way that will be answered.
    pub fn is_idle(&self) -> bool {
        matches!(self.places.front(), None | Some(Place::Close))
    }

    /// A client id for contexts, which is the same with almost every request.
    pub fn client_id(&mut self, named: &str) -> Arc<str> {
        if *self.client_id != *named {
            self.client_id = Arc::from(named);
        }
        Arc::clone(&self.client_id)
    }

    /// Counts fetches: which of its partitions one begins with.
    pub fn next_fetch_turn(&mut self) -> usize {
        self.fetch_turn = self.fetch_turn.wrapping_add(1);
        self.fetch_turn
    }

    /// Takes the next place in the order.
    pub fn begin(&mut self) -> u64 {
        self.places.push_back(Place::Waiting);
        self.first + self.places.len() as u64 - 1
    }

    /// Fills a place: `None` means that no answer is sent.
    pub fn complete(&mut self, place: u64, response: Option<Response>) {
        self.fill(place, response.map_or(Place::Nothing, Place::Ready));
    }

    /// Ends the connection at a place: nothing more is read, nothing behind it is answered.
    pub fn close_at(&mut self, place: u64) {
        self.closing = true;
        self.fill(place, Place::Close);
    }

    fn fill(&mut self, place: u64, with: Place) {
        let at = place
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok());
        if let Some(slot) = at.and_then(|at| self.places.get_mut(at)) {
            *slot = with;
        }
    }

    /// Takes the answers whose turn has come. True: the connection is to be closed behind them.
    pub fn take_ready(&mut self, mut out: impl FnMut(Response)) -> bool {
        while let Some(place) = self.places.front_mut() {
            match std::mem::replace(place, Place::Waiting) {
                Place::Waiting => return false,
                Place::Nothing => {}
                Place::Ready(response) => out(response),
                Place::Close => {
                    *place = Place::Close;
                    return true;
                }
            }
            self.places.pop_front();
            self.first += 1;
        }
        false
    }

    /// What is held by answers that were never sent.
    pub fn abandoned_charges(&self) -> Vec<Charge> {
        self.places
            .iter()
            .filter_map(|place| match place {
                Place::Ready(response) => Some(response.charge),
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_context::{ClientSoftware, ConnectionId, Principal};
    use crate::shard::Parts;

    fn response(receive_bytes: usize) -> Response {
        let charge = Charge {
            receive_bytes,
            fetch_bytes: 0,
        };
        Response {
            parts: Parts::Many(VecDeque::new()),
            charge,
        }
    }

    #[test]
    fn answers_leave_in_request_order() {
        let context = ConnectionContext {
            connection: ConnectionId {
                shard: 0,
                slot: 0,
                generation: 0,
            },
            listener: "PLAINTEXT".into(),
            peer: None,
            principal: Principal::anonymous(),
            client_software: ClientSoftware {
                name: "".into(),
                version: "".into(),
            },
        };
        let mut connection = Connection::new(Arc::new(context), 0, 0);
        let places: Vec<u64> = (0..4).map(|_| connection.begin()).collect();
        let mut out = Vec::new();
        connection.complete(places[2], Some(response(2)));
        connection.complete(places[1], None);
        connection.take_ready(|response| out.push(response));
        assert!(out.is_empty(), "the first is still waiting");
        assert_eq!(connection.abandoned_charges(), [response(2).charge]);
        connection.complete(places[0], Some(response(0)));
        connection.take_ready(|response| out.push(response));
        assert_eq!(
            out.iter().map(|r| r.charge.receive_bytes).collect::<Vec<_>>(),
            [0, 2]
        );
        connection.complete(places[3], Some(response(3)));
        connection.take_ready(|response| out.push(response));
        assert_eq!(out.len(), 3);
        assert!(connection.places.is_empty());
        let connection_first = connection.first;
        for _ in 0..REQUESTS_IN_FLIGHT_MAX {
            assert!(connection.has_room());
            connection.begin();
        }
        assert!(
            !connection.has_room(),
            "a bound on what one connection has under way"
        );
        let at = |n: u64| connection_first + n;
        connection.close_at(at(1));
        connection.complete(at(2), Some(response(4)));
        assert!(
            !connection.take_ready(|response| out.push(response)),
            "what is before it comes first"
        );
        connection.complete(at(0), Some(response(5)));
        assert!(connection.take_ready(|response| out.push(response)) && out.len() == 4);
        let never_sent = [response(4).charge];
        assert_eq!(connection.abandoned_charges(), never_sent);
        assert!(connection.is_idle());
    }
}
