//! Publishes that cannot be written yet, and the order in which exchanges get a channel.

use crate::machine::publish::pending::{PendingPublish, PublishKind};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Identifies a lane. Older lanes have lower numbers.
pub(crate) type LaneId = u64;

/// The queued publishes of one kind to one exchange, which are written in order.
#[derive(Debug)]
struct Lane {
    exchange: Box<[u8]>,
    kind: PublishKind,
    queue: VecDeque<PendingPublish>,
}

/// All publishes that cannot be written yet.
///
/// A lane is tried when it is new or its channel has changed. If its exchange has no channel and
/// none can be opened, the lane waits for one, and the lane that is oldest gets the next channel.
/// So the work does not depend on the number of waiting lanes.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: BTreeMap<LaneId, Lane>,
    /// The lanes by exchange, for each [`PublishKind`].
    ids: [HashMap<Box<[u8]>, LaneId>; 3],
    /// The lanes to try.
    to_try: BTreeSet<LaneId>,
    /// Lanes that wait for a channel. A lane in neither set has a channel on which the broker has
    /// stopped content.
    waiting: BTreeSet<LaneId>,
    /// The id of the newest lane.
    issued: LaneId,
    /// The number of publishes in all lanes.
    len: usize,
    /// The size of these publishes in bytes.
    bytes: usize,
}

impl Lanes {
    /// Returns `true` if no publish is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of publishes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the size of all publishes in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns `true` if a publish of that kind to that exchange is queued, so the next one has to
    /// follow it.
    pub(crate) fn has(&self, exchange: &[u8], kind: PublishKind) -> bool {
        self.id(exchange, kind).is_some()
    }

    fn id(&self, exchange: &[u8], kind: PublishKind) -> Option<LaneId> {
        self.ids.get(kind as usize)?.get(exchange).copied()
    }

    /// Adds a publish behind the others of its lane.
    pub(crate) fn push_back(&mut self, pending: PendingPublish) {
        self.push(pending, |queue, pending| queue.push_back(pending));
    }

    /// Adds a publish in front of the others of its lane.
    pub(crate) fn push_front(&mut self, pending: PendingPublish) {
        self.push(pending, |queue, pending| queue.push_front(pending));
    }

    /// Adds a publish to its lane, which is created if needed and then is one to try.
    fn push(
        &mut self,
        pending: PendingPublish,
        add: fn(&mut VecDeque<PendingPublish>, PendingPublish),
    ) {
        let (exchange, kind) = (pending.exchange(), pending.kind);
        let id = self.id(exchange, kind).unwrap_or_else(|| {
            self.issued += 1;
            if let Some(ids) = self.ids.get_mut(kind as usize) {
                ids.insert(exchange.into(), self.issued);
            }
            self.to_try.insert(self.issued);
            self.issued
        });
        let lane = self.lanes.entry(id).or_insert_with(|| Lane {
            exchange: pending.exchange().into(),
            kind: pending.kind,
            queue: VecDeque::new(),
        });
        self.len += 1;
        self.bytes += pending.bytes();
        add(&mut lane.queue, pending);
    }

    /// Returns the exchange and the kind of a lane.
    pub(crate) fn get(&self, id: LaneId) -> Option<(&[u8], PublishKind)> {
        self.lanes.get(&id).map(|lane| (&*lane.exchange, lane.kind))
    }

    /// Removes and returns the oldest of the lanes to try.
    pub(crate) fn next_to_try(&mut self) -> Option<LaneId> {
        self.to_try.pop_first()
    }

    /// Makes a lane wait for a channel.
    pub(crate) fn wait_for_channel(&mut self, id: LaneId) {
        self.waiting.insert(id);
    }

    /// Returns the number of lanes that wait for a channel.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the oldest lane that waits for a channel.
    pub(crate) fn first_waiting(&self) -> Option<LaneId> {
        self.waiting.first().copied()
    }

    /// Ends a lane's wait for a channel.
    pub(crate) fn stop_waiting(&mut self, id: LaneId) {
        self.waiting.remove(&id);
    }

    /// Adds a lane to those to try, because its channel has changed. A waiting lane waits on.
    pub(crate) fn retry(&mut self, exchange: &[u8], kind: PublishKind) {
        if let Some(id) = self.id(exchange, kind)
            && !self.waiting.contains(&id)
        {
            self.to_try.insert(id);
        }
    }

    /// Adds all lanes to those to try, because all channels are closed.
    pub(crate) fn retry_all(&mut self) {
        self.waiting.clear();
        self.to_try.extend(self.lanes.keys());
    }

    /// Takes the first publish of a lane. Removes the lane with its last publish.
    pub(crate) fn pop(&mut self, id: LaneId) -> Option<PendingPublish> {
        let lane = self.lanes.get_mut(&id)?;
        let pending = lane.queue.pop_front();
        if lane.queue.is_empty() {
            self.remove(id);
        }
        let pending = pending?;
        self.len -= 1;
        self.bytes -= pending.bytes();
        Some(pending)
    }

    fn remove(&mut self, id: LaneId) {
        // Unreachable: both callers have found the lane.
        let Some(lane) = self.lanes.remove(&id) else {
            return;
        };
        if let Some(ids) = self.ids.get_mut(lane.kind as usize) {
            ids.remove(&lane.exchange);
        }
        self.to_try.remove(&id);
        self.waiting.remove(&id);
    }

    /// Removes the publishes for which `keeps` returns `false`.
    pub(crate) fn retain(&mut self, mut keeps: impl FnMut(&PendingPublish) -> bool) {
        let (len, bytes) = (&mut self.len, &mut self.bytes);
        let mut empty = Vec::new();
        for (id, lane) in &mut self.lanes {
            lane.queue.retain(|pending| {
                let is_kept = keeps(pending);
                if !is_kept {
                    *len -= 1;
                    *bytes -= pending.bytes();
                }
                is_kept
            });
            if lane.queue.is_empty() {
                empty.push(*id);
            }
        }
        empty.into_iter().for_each(|id| self.remove(id));
    }

    /// Takes all publishes, lane by lane.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = PendingPublish> + use<> {
        std::mem::take(self)
            .lanes
            .into_values()
            .flat_map(|lane| lane.queue)
    }
}
