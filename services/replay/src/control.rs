//! What operators do with replays.

use std::{sync::Arc, time::SystemTime};

use prost::Message as _;
use runmesh_events::from_timestamp;
use runmesh_proto::replay::{
    CleanupReplaysRequest, CreateReplayRequest, ListReplaysRequest, ListReplaysResponse, Replay,
};
use runmesh_rpc::{Violation, page_token, status};
use runmesh_store::{PageQuery, StoreError};
use uuid::Uuid;

use crate::{
    document::{ALL, BY_CREATION, BY_END, OVER, Range, ReplayDocument},
    error::ReplayError,
    plan::Plan,
    service::Inner,
    session::{Order, Phase},
    source::{SourceError, SourceSpec},
    target::{TargetSpec, remove},
    view,
};

/// The number of entries of a page.
const DEFAULT_PAGE: usize = 50;

/// How many replays one read brings that are cleaned up.
const CLEANED: usize = 100;

/// The greatest number of characters of a request's id.
const REQUEST_ID: usize = 128;

/// Requests with an id are the namespace of their replays' ids.
const REQUESTS: Uuid = Uuid::from_u128(0x3b0f_63f2_98a5_4c1e_8a57_5a1c_4a52_70e1);

pub(crate) async fn find(inner: &Inner, id: &str) -> Result<ReplayDocument, ReplayError> {
    if id.is_empty() {
        return Err(ReplayError::field("replay_id", "is missing"));
    }
    let found = inner.replays.get(id).await?.map(|found| found.document);
    found.ok_or_else(|| ReplayError::NotFound(id.to_owned()))
}

pub(crate) async fn get(inner: &Inner, id: &str) -> Result<Replay, ReplayError> {
    Ok(view::replay(&find(inner, id).await?)?)
}

pub(crate) async fn list(inner: &Inner, request: ListReplaysRequest) -> Result<ListReplaysResponse, ReplayError> {
    let limit = page_token::size(request.page_size, DEFAULT_PAGE).map_err(|wrong| ReplayError::Invalid(vec![wrong]))?;
    let bad_token = || ReplayError::field("page_token", "is not one that this list gave out");
    let after = page_token::decode(&request.page_token, &[]).ok_or_else(bad_token)?;
    let equal = vec![ALL.into()];
    let query = PageQuery { index: BY_CREATION, equal, descending: true, limit, after, ..PageQuery::default() };
    let page = inner.replays.page(query).await.map_err(|error| match error {
        StoreError::Invalid(_) if !request.page_token.is_empty() => bad_token(),
        error => error.into(),
    })?;
    let replays: Result<_, StoreError> = page.documents.iter().map(|found| view::replay(&found.document)).collect();
    Ok(ListReplaysResponse { replays: replays?, next_page_token: page_token::encode(page.next, &[]) })
}

impl Inner {
    /// Checks what a plan needs of the mesh as it is, and to go on as this replay if it is one. Returns where its source ends
    /// now.
    pub(crate) async fn check(&self, plan: &Plan, replay_id: Option<&str>) -> Result<u64, ReplayError> {
        if let TargetSpec::Group(name) = &plan.target {
            let field = "spec.group.group";
            let group = self.targets.group(name).await?;
            let group = group.ok_or_else(|| ReplayError::field(field, format!("there is no group {name:?}")))?;
            if !group.sees_replays {
                let words = format!("group {name:?} does not take replayed events");
                return Err(ReplayError::precondition("GROUP_TAKES_NO_REPLAYS", field, words));
            }
            if !plan.event_types().iter().any(|event_type| group.topics.contains(event_type)) {
                return Err(ReplayError::field(field, format!("group {name:?} reads none of these event types")));
            }
        }
        if let Some(name) = plan.target.read_model() {
            let field = "spec.projection.read_model";
            if self.targets.read_model(name).is_none() {
                let words = format!("there is no read model {name:?}; there are {}", self.targets.read_models());
                return Err(ReplayError::field(field, words));
            }
            if let Some(replay_id) = replay_id {
                self.check_free(name, field, replay_id).await?;
            }
        }
        if plan.target.reruns().is_some() && self.targets.executions.get().is_none() {
            let words = "this process has no way to executions; services.execution says where they are";
            return Err(ReplayError::precondition("NO_EXECUTIONS", "spec.target", words));
        }
        match (self.sources.end(plan).await, &plan.source) {
            (Ok(end), _) => Ok(end),
            (Err(SourceError::File(name, error)), SourceSpec::File(_)) => {
                Err(ReplayError::field("spec.source_file", format!("{name} can't be read: {error}")))
            }
            (Err(SourceError::File(_, error)), SourceSpec::Log) => Err(error.into()),
            (Err(SourceError::Store(error)), _) => Err(error.into()),
        }
    }
}

pub(crate) async fn create(inner: &Inner, request: CreateReplayRequest) -> Result<Replay, ReplayError> {
    let plan = Plan::parse(request.spec.as_ref(), &inner.settings.topics);
    let (plan, mut violations) = match plan {
        Ok(plan) => (Some(plan), Vec::new()),
        Err(violations) => (None, violations),
    };
    violations.extend(status::operator(&request.actor, &request.reason));
    if request.request_id.chars().count() > REQUEST_ID {
        violations.push(Violation::new("request_id", format!("has more than {REQUEST_ID} characters")));
    }
    let plan = plan.filter(|_| violations.is_empty()).ok_or(ReplayError::Invalid(violations))?;
    let id = match request.request_id.as_str() {
        "" => Uuid::now_v7(),
        request_id => Uuid::new_v5(&REQUESTS, request_id.as_bytes()),
    };
    let id = id.to_string();
    // A call that is repeated is answered alike, whatever has changed since.
    if let Some(known) = inner.replays.get(&id).await? {
        return repeated(&known.document, &request);
    }
    inner.check(&plan, None).await?;
    let document = ReplayDocument::new(id.clone(), &request, SystemTime::now());
    match inner.replays.insert(&document).await {
        Ok(_) => Ok(view::replay(&document)?),
        Err(StoreError::RevisionMismatch { .. }) => repeated(&find(inner, &id).await?, &request),
        Err(error) => Err(error.into()),
    }
}

/// The replay of an earlier call with the same request id.
fn repeated(known: &ReplayDocument, request: &CreateReplayRequest) -> Result<Replay, ReplayError> {
    if known.request()?.encode_to_vec() != request.encode_to_vec() {
        return Err(ReplayError::RequestIdReused(request.request_id.clone()));
    }
    Ok(view::replay(known)?)
}

/// Why an order can't be given.
fn refused(replay: &ReplayDocument, order: Order) -> ReplayError {
    let state = replay.phase.view().as_str_name();
    let words = format!("{} is {state}, so {} can't be done", replay.id, order.method());
    ReplayError::precondition(&state.replace("REPLAY_STATE_", "REPLAY_"), "replay_id", words)
}

/// Gives an order to a replay: its id, who, and why.
pub(crate) async fn order(inner: &Arc<Inner>, order: Order, who: (&str, &str, &str)) -> Result<Replay, ReplayError> {
    let (id, actor, reason) = who;
    let violations = status::operator(actor, reason);
    if !violations.is_empty() {
        return Err(ReplayError::Invalid(violations));
    }
    let replay = find(inner, id).await?;
    replay.phase.after(order).ok_or_else(|| refused(&replay, order))?;
    let mut end = None;
    if matches!(order, Order::Start | Order::Resume) {
        // The mesh may have changed since it was created.
        let plan = inner.plan_of(&replay)?;
        end = Some(inner.check(&plan, Some(id)).await?);
    }
    let now = SystemTime::now();
    let changed = |known: Option<&ReplayDocument>| {
        let known = known?;
        let phase = known.phase.after(order)?;
        let mut changed = known.clone().with_operation(order.method(), actor, reason, now);
        (changed.phase, changed.updated_at) = (phase, now);
        match order {
            Order::Start => {
                changed.started_at = Some(now);
                changed.range = Range { first: None, end: end.unwrap_or_default() };
            }
            Order::Resume => changed.note = String::new(),
            Order::Pause => changed.note = format!("paused by {actor}: {reason}"),
            Order::Cancel => changed.note = format!("cancelled by {actor}: {reason}"),
            Order::Delete => {}
        }
        changed.due_at = Some(now).filter(|_| phase == Phase::Running);
        changed.ended_at = Some(now).filter(|_| phase.is_over());
        Some(changed)
    };
    match inner.replays.change(id, changed).await? {
        Some(changed) => {
            inner.changed.notify_one();
            if order == Order::Cancel {
                inner.give_up_read_model(&changed).await?;
            }
            Ok(view::replay(&changed)?)
        }
        // It has changed meanwhile.
        None => Err(refused(&find(inner, id).await?, order)),
    }
}

/// Removes a replay and its file.
pub(crate) async fn delete(inner: &Arc<Inner>, who: (&str, &str, &str)) -> Result<(), ReplayError> {
    let (id, actor, reason) = who;
    let violations = status::operator(actor, reason);
    if !violations.is_empty() {
        return Err(ReplayError::Invalid(violations));
    }
    let replay = find(inner, id).await?;
    replay.phase.after(Order::Delete).ok_or_else(|| refused(&replay, Order::Delete))?;
    erase(inner, id).await?;
    tracing::info!(replay_id = id, actor, reason, "a replay was deleted");
    Ok(())
}

/// Removes what is not under way. One that was started or resumed in the meantime is left.
async fn erase(inner: &Arc<Inner>, id: &str) -> Result<bool, ReplayError> {
    let Some(found) = inner.replays.get(id).await? else { return Ok(false) };
    if found.document.phase.after(Order::Delete).is_none() {
        return Ok(false);
    }
    match inner.replays.delete_if(id, found.revision).await {
        Ok(removed) => {
            remove(&inner.targets.folder, id).await?;
            inner.forget_comparisons(id).await?;
            inner.give_up_read_model(&found.document).await?;
            Ok(removed)
        }
        Err(StoreError::RevisionMismatch { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes the replays that ended before a time. Returns how many.
pub(crate) async fn cleanup(inner: &Arc<Inner>, request: CleanupReplaysRequest) -> Result<u64, ReplayError> {
    let CleanupReplaysRequest { ended_before, actor, reason } = request;
    let mut violations = status::operator(&actor, &reason);
    let before = match ended_before.as_ref().map(from_timestamp) {
        Some(Some(before)) => Some(before),
        Some(None) => {
            violations.push(Violation::new("ended_before", "is not a time from 1970 to 9999"));
            None
        }
        None => {
            violations.push(Violation::new("ended_before", "is missing"));
            None
        }
    };
    let before = before.filter(|_| violations.is_empty()).ok_or(ReplayError::Invalid(violations))?;
    let mut query = PageQuery {
        index: BY_END,
        equal: vec![OVER.into()],
        less_than: Some(before.into()),
        limit: CLEANED,
        ..PageQuery::default()
    };
    let mut removed = 0;
    loop {
        let page = inner.replays.page(query.clone()).await?;
        for found in page.documents {
            removed += u64::from(erase(inner, &found.document.id).await?);
        }
        query.after = page.next;
        if query.after.is_none() {
            tracing::info!(removed, actor, reason, "replays were cleaned up");
            return Ok(removed);
        }
    }
}

impl Inner {
    /// What a replay is to do. It was acceptable when it was created; a topic may have been taken out of the settings since.
    pub(crate) fn plan_of(&self, replay: &ReplayDocument) -> Result<Plan, ReplayError> {
        Plan::parse(replay.request()?.spec.as_ref(), &self.settings.topics).map_err(ReplayError::Invalid)
    }
}
