//! Tables without hashing for what every request touches: pending requests and connections.
//!
//! Owned by the shard's thread. A slot that is used again has a new generation, so an answer that comes
//! after its request has ended finds nothing.

use super::SocketId;
use super::connection::Connection;

/// Values under ids of their own: `generation (32 bits) | slot (32 bits)`.
pub(super) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

fn split(id: u64) -> (usize, u32) {
    ((id & u64::from(u32::MAX)) as usize, (id >> 32) as u32)
}

impl<T> Slab<T> {
    /// Keeps a value and answers its id.
    pub(super) fn insert(&mut self, value: T) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let place = &mut self.slots[slot as usize];
        place.1 = Some(value);
        u64::from(place.0) << 32 | u64::from(slot)
    }

    /// The value under an id, unless it was removed.
    pub(super) fn get(&self, id: &u64) -> Option<&T> {
        let (slot, generation) = split(*id);
        let place = self.slots.get(slot).filter(|place| place.0 == generation)?;
        place.1.as_ref()
    }

    /// As [`Slab::get`].
    pub(super) fn get_mut(&mut self, id: &u64) -> Option<&mut T> {
        let (slot, generation) = split(*id);
        let place = self.slots.get_mut(slot).filter(|place| place.0 == generation)?;
        place.1.as_mut()
    }

    /// Takes the value out; its id is never valid again.
    pub(super) fn remove(&mut self, id: &u64) -> Option<T> {
        let (slot, generation) = split(*id);
        let place = self.slots.get_mut(slot).filter(|place| place.0 == generation)?;
        let value = place.1.take()?;
        place.0 = place.0.wrapping_add(1);
        self.free.push(slot as u32);
        Some(value)
    }

    /// How many values are kept.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether nothing is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything kept, with its ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, place)| {
            let value = place.1.as_ref()?;
            Some((u64::from(place.0) << 32 | slot as u64, value))
        })
    }
}

/// Connections by the slots of their sockets, which the engine gives out.
#[derive(Default)]
pub(super) struct Connections {
    slots: Vec<Option<(u32, Connection)>>,
    len: usize,
}

impl Connections {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, id: &SocketId) -> Option<&Connection> {
        let (generation, connection) = self.slots.get(id.slot as usize)?.as_ref()?;
        (*generation == id.generation).then_some(connection)
    }

    pub(super) fn get_mut(&mut self, id: &SocketId) -> Option<&mut Connection> {
        let (generation, connection) = self.slots.get_mut(id.slot as usize)?.as_mut()?;
        (*generation == id.generation).then_some(connection)
    }

    /// Keeps the connection of a socket whose slot is free.
    pub(super) fn insert(&mut self, id: SocketId, connection: Connection) {
        let at = id.slot as usize;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        let before = self.slots[at].replace((id.generation, connection));
        assert!(
            before.is_none(),
            "a slot is used again only after its connection was closed"
        );
        self.len += 1;
    }

    pub(super) fn remove(&mut self, id: &SocketId) -> Option<Connection> {
        self.get(id)?;
        let (_, connection) = self.slots.get_mut(id.slot as usize)?.take()?;
        self.len -= 1;
        Some(connection)
    }

    /// Slots, used or not.
    pub(super) fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// The connection in a slot.
    pub(super) fn at(&self, slot: usize) -> Option<(SocketId, &Connection)> {
        let (generation, connection) = self.slots.get(slot)?.as_ref()?;
        let id = SocketId {
            slot: slot as u32,
            generation: *generation,
        };
        Some((id, connection))
    }
}

#[cfg(test)]
mod tests {
    use super::Slab;

    #[test]
    fn an_id_dies_with_its_value() {
        let mut slab = Slab::default();
        let (first, second) = (slab.insert('a'), slab.insert('b'));
        assert_eq!((slab.get(&first), slab.get(&second)), (Some(&'a'), Some(&'b')));
        assert_eq!(slab.remove(&first), Some('a'));
        assert_eq!((slab.remove(&first), slab.get(&first)), (None, None));
        let third = slab.insert('c');
        assert_eq!(third as u32, first as u32, "the slot is used again");
        assert!(
            slab.get(&first).is_none() && slab.get_mut(&first).is_none(),
            "under another id"
        );
        assert_eq!(slab.iter().collect::<Vec<_>>(), [(third, &'c'), (second, &'b')]);
        slab.remove(&second);
        assert!(!slab.is_empty());
        slab.remove(&third);
        assert!(slab.is_empty() && slab.iter().next().is_none());
    }
}
