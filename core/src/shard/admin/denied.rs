//! Requests of which a part is denied: the rest goes on to group 0, and the answer has every item in the
//! order asked.

use tidelog_net::response::ResponseBody;
use tidelog_segment_log::disk::Disk;

use super::{
    PendingControl, RESOURCE_BROKER, RESOURCE_BROKER_LOGGER, RESOURCE_CLIENT_METRICS, RESOURCE_GROUP,
    RESOURCE_TOPIC, Then,
};
use crate::guard::{Decision, Operation, Resource};
use crate::request_context::RequestContext;
use crate::shard::control::ControlOp;
use crate::shard::{Now, Origin, Shard};

/// Puts what was denied back into an answer.
pub(super) type PutBack = Box<dyn FnOnce(&mut ResponseBody)>;

/// What the guard left of a request's items, and the answers to the others by their places.
pub(super) struct Split<Item, Result> {
    pub allowed: Vec<Item>,
    pub denied: Vec<(usize, Result)>,
}

impl<Item, Result> Split<Item, Result> {
    /// `denial`: the answer to an item that is denied.
    pub(super) fn new(items: Vec<Item>, mut denial: impl FnMut(&Item) -> Option<Result>) -> Self {
        let mut split = Self {
            allowed: Vec::with_capacity(items.len()),
            denied: Vec::new(),
        };
        for (at, item) in items.into_iter().enumerate() {
            match denial(&item) {
                None => split.allowed.push(item),
                Some(result) => split.denied.push((at, result)),
            }
        }
        split
    }
}

/// The answers to all items, in the order asked.
pub(super) fn put_back<Result>(answered: Vec<Result>, denied: Vec<(usize, Result)>) -> Vec<Result> {
    let mut all = Vec::with_capacity(answered.len() + denied.len());
    let mut answered = answered.into_iter();
    for (at, result) in denied {
        let before = at.saturating_sub(all.len());
        all.extend(answered.by_ref().take(before));
        all.push(result);
    }
    all.extend(answered);
    all
}

/// The guarded resource whose configs these are; `None`: no such kind of configs, which is told later.
fn guarded(kind: i8, name: &str) -> Option<Resource<'_>> {
    match kind {
        RESOURCE_TOPIC => Some(Resource::Topic(name)),
        RESOURCE_BROKER | RESOURCE_BROKER_LOGGER | RESOURCE_CLIENT_METRICS => Some(Resource::Cluster),
        RESOURCE_GROUP => Some(Resource::Group(name)),
        _ => None,
    }
}

impl Shard {
    /// The error code where these configs may not be read or altered.
    pub(super) fn denied_configs(
        &self,
        context: &RequestContext,
        kind: i8,
        name: &str,
        operation: Operation,
    ) -> Option<i16> {
        let resource = guarded(kind, name)?;
        match self.guard.check(context, &[(resource, operation)]) {
            Decision::Allowed => None,
            Decision::Denied { error_code } => {
                self.metrics.guard_denials.increment();
                Some(error_code)
            }
        }
    }

    /// As [`Shard::hand_to_control`], for a request of which a part is denied.
    pub(super) fn hand_rest_to_control(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        op: ControlOp,
        put_back: PutBack,
    ) {
        let then = Then::PutBack(put_back);
        self.ask_control(now, disk, PendingControl { origin, then }, op);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_has_its_place_in_the_answer() {
        for denied in 0..32_u32 {
            let items: Vec<u32> = (0..5).collect();
            let split = Split::new(items.clone(), |item| (denied >> item & 1 == 1).then_some(*item));
            assert_eq!(split.denied.len(), denied.count_ones() as usize);
            assert_eq!(put_back(split.allowed, split.denied), items, "{denied:b}");
        }
        assert_eq!(put_back(Vec::new(), vec![(3, "a"), (9, "b")]), ["a", "b"]);
    }
}
