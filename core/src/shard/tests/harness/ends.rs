//! How a test's broker stops, is killed or loses its power, and starts again.

use super::*;

impl Cluster {
    /// SIGTERM on all shards; nothing is run yet.
    pub(in crate::shard::tests) fn begin_stop(&mut self) {
        let now = self.now();
        for Node { shard, port, .. } in &mut self.nodes {
            shard.on_stop(now, port);
        }
    }

    pub(in crate::shard::tests) fn is_drained(&self) -> bool {
        self.nodes.iter().all(|node| node.shard.is_drained())
    }

    /// An orderly stop, then a start of the same process image with the same settings.
    pub(in crate::shard::tests) fn restart(&mut self) {
        self.stop_in_order();
        self.begin_again();
    }

    fn stop_in_order(&mut self) {
        self.begin_stop();
        self.run();
        assert!(self.is_drained(), "drained without waiting");
        assert!(self.nodes.iter().all(|node| node.shard.is_complete()));
        self.close_all();
        for DirectorySeed { directory, space } in std::mem::take(&mut self.directories) {
            if !space.has_failed() {
                let mut device = self.device.borrow_mut();
                directory
                    .mark_clean(&mut Blocking(&mut device.sim))
                    .expect("marked");
            }
        }
    }

    /// An orderly stop, a start that is stopped after some turns, and another start.
    pub(in crate::shard::tests) fn restart_and_stop_after(&mut self, turns: usize) {
        self.stop_in_order();
        self.sockets.clear();
        self.nodes.clear();
        self.device.borrow_mut().forget(self.shards);
        self.start();
        for _ in 0..turns {
            self.turns();
            self.device.borrow_mut().advance();
        }
        self.restart();
    }

    /// The power goes, then the broker starts again.
    pub(in crate::shard::tests) fn power_cut(&mut self) {
        self.sockets.clear();
        self.nodes.clear();
        self.directories.clear();
        self.device.borrow_mut().sim.power_cut();
        self.begin_again();
    }

    /// The process is killed, then the broker starts again.
    pub(in crate::shard::tests) fn kill(&mut self) {
        self.sockets.clear();
        self.nodes.clear();
        self.directories.clear();
        self.device.borrow_mut().sim.process_kill();
        self.begin_again();
    }

    fn begin_again(&mut self) {
        self.sockets.clear();
        self.nodes.clear();
        self.device.borrow_mut().forget(self.shards);
        self.start();
        self.run();
        assert!(
            self.nodes.iter().all(|node| node.shard.is_ready()),
            "serves again"
        );
        self.remove_replayed_journals();
    }

    pub(super) fn close_all(&mut self) {
        for at in 0..self.sockets.len() {
            self.close_socket(at);
        }
        self.run();
    }

    /// What shards still hold for requests: nothing, when all connections are gone.
    pub(in crate::shard::tests) fn assert_nothing_is_held(&mut self) {
        for Node { shard, .. } in &mut self.nodes {
            let own = shard.own;
            assert_eq!(
                shard.receive_budget.used_bytes(),
                0,
                "receive budget of shard {own}"
            );
            assert_eq!(shard.fetch_budget.used_bytes(), 0, "fetch budget of shard {own}");
            assert_eq!(shard.pending.len(), 0, "requests of shard {own}");
            assert_eq!(shard.connections.len(), 0, "connections of shard {own}");
            assert_eq!(
                shard.backlog.iter().map(VecDeque::len).sum::<usize>(),
                0,
                "backlog of shard {own}"
            );
            assert_eq!(shard.partitions.watcher_count(), 0, "watchers of shard {own}");
        }
    }
}
