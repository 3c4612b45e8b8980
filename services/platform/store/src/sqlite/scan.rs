//! Reading over all logs, in the order of positions or against it.

use std::collections::BTreeSet;

use runmesh_events::EventType;
use rusqlite::{Connection, params_from_iter, types::Value};

use super::{
    backend,
    events::{integer, length, micros, position_and_body, stored},
};
use crate::{Filter, Position, StoreError, Stored};

/// Which way a scan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From a position on.
    Forwards,
    /// Back from a position.
    Backwards,
}

/// At most `limit` events beyond a position that match the filter.
pub(super) fn scan(
    connection: &Connection,
    filter: &Filter,
    direction: Direction,
    beyond: Position,
    limit: usize,
) -> Result<Vec<Stored>, StoreError> {
    let (sql, values) = query(filter, direction, beyond, limit);
    let mut statement = connection.prepare_cached(&sql).map_err(backend)?;
    let rows = statement.query_map(params_from_iter(values), position_and_body).map_err(backend)?;
    rows.map(|row| stored(row.map_err(backend)?)).collect()
}

/// The statement and its values. Whatever the filter is, rows come by an index in the order that is wanted, so that a page
/// costs the same however much follows it.
fn query(filter: &Filter, direction: Direction, beyond: Position, limit: usize) -> (String, Vec<Value>) {
    let (beyond_it, order) = match direction {
        Direction::Forwards => (">", "ASC"),
        Direction::Backwards => ("<", "DESC"),
    };
    let mut values: Vec<Value> = vec![integer(beyond.0).into()];
    let mut conditions = format!("aggregate IS NOT NULL AND position {beyond_it} ?1");
    let mut add = |condition: &str, value: Value| {
        values.push(value);
        conditions.push_str(&format!(" AND {condition} ?{}", values.len()));
    };
    if let Some(aggregate) = &filter.aggregate {
        add("aggregate =", aggregate.as_str().to_owned().into());
    }
    for (time, condition) in [(filter.from, "recorded_at >="), (filter.until, "recorded_at <")] {
        if let Some(time) = time {
            add(condition, micros(time).into());
        }
    }
    values.push(length(limit).into());
    let limit = format!("LIMIT ?{}", values.len());
    let types: BTreeSet<i32> = filter.types.iter().map(|event_type: &EventType| *event_type as i32).collect();
    let select = |more: &str| format!("SELECT position, body FROM events WHERE {conditions}{more}");
    let sql = if filter.aggregate.is_some() {
        // A log's sequences are in the order of its positions. The `+` keeps it from going by the type.
        let list = types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let of_types = if list.is_empty() { String::new() } else { format!(" AND +type IN ({list})") };
        format!("{} ORDER BY sequence {order} {limit}", select(&of_types))
    } else if types.is_empty() {
        format!("{} ORDER BY position {order} {limit}", select(""))
    } else {
        // Each type by itself, merged as they are read: with one condition on the types all that follows would be sorted.
        let each: Vec<String> = types.iter().map(|number| select(&format!(" AND type = {number}"))).collect();
        format!("{} ORDER BY position {order} {limit}", each.join(" UNION ALL "))
    };
    (sql, values)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use runmesh_events::{AggregateId, Catalog};

    use super::*;

    #[test]
    fn no_page_sorts_what_follows_it() {
        let connection = Connection::open_in_memory().unwrap();
        super::super::schema::prepare(&connection).unwrap();
        let all: Vec<EventType> = Catalog::get().event_types().collect();
        let aggregate = Some(AggregateId::from("a"));
        let filters = [
            Filter::default(),
            Filter { types: vec![EventType::PodCreated], ..Filter::default() },
            Filter { types: vec![EventType::PodCreated, EventType::PodFailed], ..Filter::default() },
            Filter { types: all, from: Some(SystemTime::now()), ..Filter::default() },
            Filter { aggregate: aggregate.clone(), ..Filter::default() },
            Filter { aggregate, types: vec![EventType::PodCreated, EventType::PodFailed], ..Filter::default() },
        ];
        for filter in filters {
            for direction in [Direction::Forwards, Direction::Backwards] {
                let (sql, values) = query(&filter, direction, Position(1), 10);
                let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
                let steps = plan.query_map(params_from_iter(values), |row| row.get::<_, String>(3)).unwrap();
                let steps: Vec<String> = steps.map(Result::unwrap).collect();
                assert!(steps.iter().all(|step| !step.contains("TEMP B-TREE")), "{sql}: {steps:?}");
                assert!(steps.iter().any(|step| step.contains("SEARCH")), "{sql}: {steps:?}");
                if filter.aggregate.is_some() {
                    assert!(steps[0].contains("events_by_aggregate"), "{sql}: {steps:?}");
                }
            }
        }
    }
}
