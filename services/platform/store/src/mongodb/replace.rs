//! Replacing what an event says.

use mongodb::bson::{Binary, doc, spec::BinarySubtype};
use prost::Message as _;
use runmesh_events::{AggregateId, EventId, Payload};
use std::sync::Arc;

use super::{Inner, bucket::key, failure::repeat};
use crate::{StoreError, Stored, record::with_payload};

impl Inner {
    /// Replaces the payload of one event by another of its type.
    pub(super) async fn replace_payload(&self, id: &EventId, payload: Payload) -> Result<Option<Stored>, StoreError> {
        loop {
            let Some(bucket) = self.holder(id.as_bytes()).await? else { return Ok(None) };
            let found = bucket.events.iter().enumerate().find(|(_, item)| item.id() == *id.as_bytes());
            let Some((index, item)) = found else { return Ok(None) };
            let Stored { position, event } = item.stored()?;
            let event = Arc::new(with_payload(&event, payload.clone())?);
            let aggregate = AggregateId::from(bucket.aggregate.as_str());
            // Events are only added to a bucket, and behind those that are there, so an event's index stays.
            let filter = doc! { "_id": key(&aggregate, bucket.place.number), "log": bucket.place.log };
            let body = Binary { subtype: BinarySubtype::Generic, bytes: event.encode_to_vec() };
            let update = doc! { "$set": { format!("events.{index}.b"): body } };
            let done = repeat(self.timeout, || self.events.update_one(filter.clone(), update.clone())).await?;
            // Otherwise its log was deleted meanwhile.
            if done.matched_count > 0 {
                self.live.replaced(&event);
                return Ok(Some(Stored { position, event }));
            }
        }
    }
}
