//! Identifiers.

use std::{
    collections::BTreeSet,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;

/// The namespace of derived ids: a fixed random UUID, so that they can't meet those of another system.
const DERIVED: Uuid = Uuid::from_u128(0x5f3c_9a52_8c1e_4c1f_9d0e_6b1a_47e2_d3b8);

/// A text that should have been an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a UUID")]
pub struct InvalidId {
    text: String,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, greater than those made before it (UUID version 7).
            #[allow(clippy::new_without_default, reason = "each call makes another value")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The 16 bytes of the id.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                // One spelling only: the others that the parser takes would be other keys for the same thing.
                match Uuid::try_parse(text) {
                    Ok(id) if id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text => Ok(Self(id)),
                    _ => Err(InvalidId { text: text.chars().take(64).collect() }),
                }
            }
        }
    };
}

uuid_id! {
    /// The id of an event.
    EventId
}
uuid_id! {
    /// The id of an execution, and so of its aggregate.
    ExecutionId
}

impl EventId {
    /// The id of the event number `ordinal` that `group` derives from `cause`. The same each time, so that a second
    /// delivery of the cause adds nothing.
    pub fn derived(group: &str, cause: &str, ordinal: u32) -> Self {
        Self(Uuid::new_v5(&DERIVED, format!("{group}\n{cause}\n{ordinal}").as_bytes()))
    }
}

impl ExecutionId {
    /// The id of the execution that `user` asks for with the idempotency key `request_id`.
    pub fn for_request(user: &str, request_id: &str) -> Self {
        Self(Uuid::new_v5(&DERIVED, format!("request\n{user}\n{request_id}").as_bytes()))
    }

    /// The aggregate that holds the execution's events.
    pub fn aggregate(&self) -> AggregateId {
        AggregateId::from(self.to_string())
    }
}

/// The id of an aggregate: the log that an event belongs to, and the key of its record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AggregateId(Arc<str>);

impl AggregateId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for AggregateId {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for AggregateId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for AggregateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The names of groups that are known only at run time. Each is kept as long as the process, once.
static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// The name of a consumer group. Each is a constant of the crate whose handlers it runs, or made of one and the name of a
/// process that has a group of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupName(&'static str);

impl GroupName {
    /// A group of this name.
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// The group that this member has for itself: it sees all there is, whatever the others do.
    pub fn of_member(self, member: &str) -> Self {
        let name = format!("{}.{member}", self.0);
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(name.as_str()) {
            return Self(known);
        }
        let kept: &'static str = Box::leak(name.into_boxed_str());
        names.insert(kept);
        Self(kept)
    }

    /// The name as text.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_members_own_group_is_kept_once() {
        let group = GroupName::new("runner");
        assert_eq!(group.of_member("a").as_str(), "runner.a");
        assert!(std::ptr::eq(group.of_member("b").as_str(), group.of_member("b").as_str()));
    }

    #[test]
    fn derived_ids_depend_on_each_part_and_on_nothing_else() {
        let id = EventId::derived("saga", "cause", 0);
        assert_eq!(id, EventId::derived("saga", "cause", 0));
        assert_ne!(id, EventId::derived("saga", "cause", 1));
        assert_ne!(id, EventId::derived("saga", "other", 0));
        assert_ne!(id, EventId::derived("runner", "cause", 0));
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id = ExecutionId::new();
        assert_eq!(id.to_string().parse::<ExecutionId>().unwrap(), id);
        assert!(id.to_string().to_uppercase().parse::<ExecutionId>().is_err());
        assert!(format!("{{{id}}}").parse::<ExecutionId>().is_err());
        assert!("".parse::<ExecutionId>().is_err());
    }
}
