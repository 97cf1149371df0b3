//! The engine of a test's broker: turns, frames that come, effects, answers that go; and time.

use super::*;

impl Cluster {
    /// Takes turns and lets the device work until nothing happens any more; time stands still.
    pub(in crate::shard::tests) fn run(&mut self) {
        for _ in 0..TURNS_MAX {
            let progressed = self.turns();
            let advanced = self.device.borrow_mut().advance();
            if !progressed && !advanced {
                return;
            }
        }
        panic!("the shards do not come to rest");
    }

    /// One turn of each shard, without the device.
    pub(in crate::shard::tests) fn turns(&mut self) -> bool {
        (0..self.nodes.len()).fold(false, |any, shard| self.turn(shard) | any)
    }

    /// As [`Cluster::run`], then the time moves on, with a look at all timers on the way.
    pub(in crate::shard::tests) fn advance_ms(&mut self, ms: u64) {
        self.run();
        let until = self.monotonic_ms + ms;
        while self.monotonic_ms < until {
            let next = self
                .nodes
                .iter()
                .enumerate()
                .filter(|(shard, _)| self.stalled != Some(*shard))
                .filter_map(|(_, node)| node.shard.next_deadline_ms())
                .min();
            self.monotonic_ms = next.map_or(until, |at| at.clamp(self.monotonic_ms + 1, until));
            self.run();
            // The control thread's part, which in truth it does all the time.
            let is_low = self.keepers.iter().any(|keeper| !keeper.figures().takes_writes());
            if self.looks_at_room && is_low {
                self.look_at_room();
            }
        }
    }

    /// Lets time pass without a turn.
    pub(in crate::shard::tests) fn pass_ms(&mut self, ms: u64) {
        self.monotonic_ms += ms;
    }

    pub(in crate::shard::tests) fn turn(&mut self, shard: usize) -> bool {
        if self.stalled == Some(shard) {
            return false;
        }
        let now = self.now();
        let Node {
            shard: state, port, ..
        } = &mut self.nodes[shard];
        let mut progressed = false;
        let mut completions = Vec::new();
        port.take_completions(&mut completions);
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        progressed |= state.endpoint().receive(256, &mut requests, &mut answers);
        progressed |= !completions.is_empty() || !requests.is_empty() || !answers.is_empty();
        for completion in completions {
            state.on_disk(now, port, completion);
        }
        for (_, answer) in answers {
            state.on_answer(now, port, answer);
        }
        for (from, request) in requests {
            assert!(!matches!(request, ShardRequest::Connection { .. }));
            state.on_request(now, port, from, request);
        }
        if state.next_deadline_ms().is_some_and(|at| at <= now.monotonic_ms) {
            state.on_timers(now, port);
            progressed = true;
        }
        for at in 0..self.sockets.len() {
            if self.sockets[at].shard == shard {
                progressed |= self.read_frames(at);
            }
        }
        let Node {
            shard: state,
            port,
            stepped,
            ..
        } = &mut self.nodes[shard];
        state.end_of_turn(now, port);
        // One step, small enough to be cut in most jobs.
        progressed |= std::mem::replace(stepped, state.has_background() && !self.steps_held);
        if *stepped {
            state.step(now, port, &mut StepBudget::items(STEP_ITEMS));
            progressed = true;
        }
        let has_arrived = self.nodes[shard].port.heap_has_arrived();
        progressed | has_arrived | self.carry_out_effects(shard)
    }

    /// One step of a shard's background work, at most this many items.
    pub(in crate::shard::tests) fn step(&mut self, shard: usize, items: u32) -> Progress {
        let now = self.now();
        let Node {
            shard: state, port, ..
        } = &mut self.nodes[shard];
        state.step(now, port, &mut StepBudget::items(items))
    }

    /// A turn; whether the shard owns no partition any more.
    pub(in crate::shard::tests) fn turn_until_deleted(&mut self, shard: usize) -> bool {
        self.turn(shard);
        self.nodes[shard].shard.partitions.len() == 0
    }

    /// As the reactor: only with a reason to, and only while the shard takes frames.
    fn read_frames(&mut self, at: usize) -> bool {
        let now = self.now();
        let socket = &mut self.sockets[at];
        let Node { shard, port, .. } = &mut self.nodes[socket.shard];
        let mut any = false;
        while socket.readable && !socket.closed {
            if !shard.wants_frame(socket.id) {
                (socket.readable, socket.armed) = (false, false);
                break;
            }
            let Some(frame) = socket.inbox.front() else {
                (socket.readable, socket.armed) = (false, true);
                break;
            };
            if !shard.can_ever_receive(frame.len()) {
                shard.on_frame_too_large(socket.id, frame.len());
                self.close_socket(at);
                return true;
            }
            if !shard.reserve_receive(frame.len()) {
                shard.on_receive_stalled();
                break;
            }
            if let Some(frame) = socket.inbox.pop_front() {
                let charge_bytes = frame.len();
                shard.on_frame(now, port, socket.id, frame, charge_bytes);
                any = true;
            }
        }
        any
    }

    fn socket_of(&mut self, shard: usize, id: SocketId) -> Option<usize> {
        self.sockets
            .iter()
            .position(|socket| socket.shard == shard && socket.id == id && !socket.closed)
    }

    fn carry_out_effects(&mut self, shard: usize) -> bool {
        let effects = self.nodes[shard].shard.take_effects();
        let any = !effects.is_empty();
        for effect in effects {
            match effect {
                Effect::Respond(id, response) => match self.socket_of(shard, id) {
                    Some(at) => {
                        self.sockets[at].queued.push_back(response);
                        self.send_queued(at);
                        self.sockets[at].readable = true;
                    }
                    None => self.nodes[shard].shard.on_sent(response.charge),
                },
                Effect::Close(id) => {
                    if let Some(at) = self.socket_of(shard, id) {
                        self.close_socket(at);
                    }
                }
                Effect::CloseAfterSend(id) => {
                    if let Some(at) = self.socket_of(shard, id) {
                        self.sockets[at].close_after_send = true;
                        self.send_queued(at);
                    }
                }
                Effect::ReadAgain(id) => {
                    if let Some(at) = self.socket_of(shard, id) {
                        self.sockets[at].readable = true;
                    }
                }
            }
        }
        any
    }

    pub(super) fn send_queued(&mut self, at: usize) {
        let socket = &mut self.sockets[at];
        if socket.stalled {
            return;
        }
        while let Some(response) = socket.queued.pop_front() {
            let whole: Vec<u8> = response
                .parts
                .iter()
                .flat_map(|part| part.bytes())
                .copied()
                .collect();
            let size = u32::from_be_bytes(whole[..4].try_into().expect("a size prefix"));
            assert_eq!(size as usize, whole.len() - 4, "the frame is as long as it says");
            socket.received.push_back(Bytes::from(whole).slice(4..));
            self.nodes[socket.shard].shard.on_sent(response.charge);
        }
        if socket.close_after_send {
            self.close_socket(at);
        }
    }

    pub(super) fn close_socket(&mut self, at: usize) {
        let socket = &mut self.sockets[at];
        if std::mem::replace(&mut socket.closed, true) {
            return;
        }
        let shard = &mut self.nodes[socket.shard].shard;
        for response in socket.queued.drain(..) {
            shard.on_sent(response.charge);
        }
        shard.on_closed(socket.id);
    }
}
