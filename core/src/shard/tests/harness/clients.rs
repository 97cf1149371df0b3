//! What a test's clients do.

use super::*;

impl Cluster {
    pub(in crate::shard::tests) fn connect(&mut self, shard: usize) -> Client {
        let id = SocketId {
            slot: self.sockets.len() as u32,
            generation: 0,
        };
        let now = self.now();
        let peer = "192.0.2.1:50000".parse().expect("an address");
        self.nodes[shard].shard.on_accepted(now, id, 0, peer);
        self.sockets.push(Socket {
            shard,
            id,
            inbox: VecDeque::new(),
            readable: true,
            armed: false,
            stalled: false,
            queued: VecDeque::new(),
            close_after_send: false,
            closed: false,
            received: VecDeque::new(),
            asked: HashMap::new(),
            next_correlation: 1,
        });
        Client(self.sockets.len() - 1)
    }

    /// Sends a request; it is looked at in the next turn.
    pub(in crate::shard::tests) fn send(
        &mut self,
        client: Client,
        version: i16,
        body: impl Into<RequestBody>,
    ) -> i32 {
        let body = body.into();
        let key = body.api_key();
        let socket = &mut self.sockets[client.0];
        let correlation = socket.next_correlation;
        socket.next_correlation += 1;
        let frame = encode_request(key, version, correlation, Some("test"), &body).expect("a request");
        socket.asked.insert(correlation, (key, version));
        self.send_raw(client, frame.slice(4..));
        correlation
    }

    /// Sends the bytes of a frame, without its size.
    pub(in crate::shard::tests) fn send_raw(&mut self, client: Client, frame: Bytes) {
        let socket = &mut self.sockets[client.0];
        socket.inbox.push_back(frame);
        socket.readable |= socket.armed;
    }

    /// The next answer that has come, in the order of arrival.
    pub(in crate::shard::tests) fn received(&mut self, client: Client) -> Option<(i32, ResponseBody)> {
        let socket = &mut self.sockets[client.0];
        let frame = socket.received.pop_front()?;
        let correlation = i32::from_be_bytes(frame[..4].try_into().expect("a correlation id"));
        let (key, version) = socket.asked.remove(&correlation).expect("was asked");
        let response = decode_response(key, version, frame, DECODE_BYTES).expect("an answer");
        Some((correlation, response.body))
    }

    /// The raw next answer.
    pub(in crate::shard::tests) fn received_raw(&mut self, client: Client) -> Option<Bytes> {
        self.sockets[client.0].received.pop_front()
    }

    /// Sends, runs, and takes the answer, which must be the only one.
    pub(in crate::shard::tests) fn ask(
        &mut self,
        client: Client,
        version: i16,
        body: impl Into<RequestBody>,
    ) -> ResponseBody {
        let sent = self.send(client, version, body);
        self.run();
        let (correlation, body) = self.received(client).expect("an answer");
        assert_eq!(correlation, sent);
        body
    }

    pub(in crate::shard::tests) fn is_closed(&self, client: Client) -> bool {
        self.sockets[client.0].closed
    }

    /// The client goes away.
    pub(in crate::shard::tests) fn close(&mut self, client: Client) {
        self.close_socket(client.0);
    }

    /// The client stops, or goes on, taking answers.
    pub(in crate::shard::tests) fn stall(&mut self, client: Client, stalled: bool) {
        self.sockets[client.0].stalled = stalled;
        if !stalled {
            self.send_queued(client.0);
            self.sockets[client.0].readable = true;
        }
    }

    /// Bytes of answers that wait for the client to read.
    pub(in crate::shard::tests) fn queued_bytes(&self, client: Client) -> usize {
        let parts = self.sockets[client.0]
            .queued
            .iter()
            .flat_map(|response| response.parts.iter());
        parts.map(|part| part.bytes().len()).sum()
    }
}
