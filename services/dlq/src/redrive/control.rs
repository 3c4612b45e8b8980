//! What operators do with redrives.

use std::time::SystemTime;

use prost::Message;
use runmesh_events::TraceParent;
use runmesh_proto::dlq::{ListRedrivesRequest, ListRedrivesResponse, Redrive, StartRedriveRequest};
use runmesh_rpc::{Violation, page_token};
use runmesh_store::{PageQuery, StoreError};

use super::{
    document::{BY_START, Phase, RedriveDocument},
    plan::check_rate,
};
use crate::{
    error::DlqError,
    list::DEFAULT_PAGE,
    service::Inner,
    tell::{self, By},
};

fn missing(id: &str) -> DlqError {
    DlqError::NotFound("redrive", id.to_owned())
}

async fn find(inner: &Inner, id: &str) -> Result<RedriveDocument, DlqError> {
    if id.is_empty() {
        return Err(DlqError::field("redrive_id", "is missing"));
    }
    let found = inner.redrives.get(id).await?.map(|found| found.document);
    found.filter(|redrive| redrive.started_at.is_some()).ok_or_else(|| missing(id))
}

pub(crate) async fn get(inner: &Inner, id: &str) -> Result<Redrive, DlqError> {
    let redrive = find(inner, id).await?;
    Ok(inner.view_of(&redrive).await?)
}

pub(crate) async fn list(inner: &Inner, request: ListRedrivesRequest) -> Result<ListRedrivesResponse, DlqError> {
    let limit = page_token::size(request.page_size, DEFAULT_PAGE).map_err(|wrong| DlqError::Invalid(vec![wrong]))?;
    let bad_token = || DlqError::field("page_token", "is not one that this list gave out");
    let after = page_token::decode(&request.page_token, &[]).ok_or_else(bad_token)?;
    let equal = vec!["started".into()];
    let query = PageQuery { index: BY_START, equal, descending: true, limit, after, ..PageQuery::default() };
    let page = inner.redrives.page(query).await.map_err(|error| match error {
        StoreError::Invalid(_) if !request.page_token.is_empty() => bad_token(),
        error => error.into(),
    })?;
    let mut redrives = Vec::with_capacity(page.documents.len());
    for found in &page.documents {
        redrives.push(inner.view_of(&found.document).await?);
    }
    Ok(ListRedrivesResponse { redrives, next_page_token: page_token::encode(page.next, &[]) })
}

pub(crate) async fn start(
    inner: &Inner,
    request: StartRedriveRequest,
    trace: &TraceParent,
) -> Result<Redrive, DlqError> {
    check_rate(request.rate)?;
    let mut violations = Vec::new();
    let by = By::parse(&request.actor, &request.reason).unwrap_or_else(|wrong| {
        violations.extend(wrong);
        By::default()
    });
    let mut count = |field: &str, number: i32| {
        u64::try_from(number).unwrap_or_else(|_| {
            violations.push(Violation::new(field, "is negative"));
            0
        })
    };
    let canary = count("canary", request.canary);
    let canary_failures = count("canary_failures", request.canary_failures);
    if canary_failures > 0 && canary_failures >= canary {
        violations.push(Violation::new("canary_failures", "is not less than canary"));
    }
    if request.plan_token.is_empty() {
        violations.push(Violation::new("plan_token", "is missing"));
    }
    if !violations.is_empty() {
        return Err(DlqError::Invalid(violations));
    }
    let id = &request.plan_token;
    let unknown = || DlqError::field("plan_token", "is not that of a plan, or is over");
    let plan = inner.redrives.get(id).await?.ok_or_else(unknown)?.document;
    if plan.phase == Phase::Planned {
        let now = SystemTime::now();
        if plan.expires_at <= now {
            return Err(unknown());
        }
        tell::operation(&*inner.events, "StartRedrive", by, id, &request, trace).await?;
        let started = |plan: Option<&RedriveDocument>| {
            let plan = plan.filter(|plan| plan.phase == Phase::Planned)?.clone();
            Some(RedriveDocument {
                phase: if canary > 0 { Phase::Canary } else { Phase::Running },
                rate: request.rate,
                canary,
                canary_failures,
                started_at: Some(now),
                updated_at: now,
                actor: by.actor.to_owned(),
                reason: by.reason.to_owned(),
                due_at: Some(now),
                ..plan
            })
        };
        inner.redrives.change(id, started).await?;
        inner.redrive_changed.notify_one();
    }
    get(inner, id).await
}

/// Changes the phase of a redrive if `change` says to which; the note says why.
async fn steer<M: Message>(
    inner: &Inner,
    operation: &str,
    (id, actor, reason): (&str, &str, &str),
    request: &M,
    trace: &TraceParent,
    change: impl Fn(&RedriveDocument) -> Result<Option<RedriveDocument>, DlqError>,
) -> Result<Redrive, DlqError> {
    let by = By::parse(actor, reason).map_err(DlqError::Invalid)?;
    let redrive = find(inner, id).await?;
    if change(&redrive)?.is_some() {
        tell::operation(&*inner.events, operation, by, id, request, trace).await?;
        let changed = |redrive: Option<&RedriveDocument>| change(redrive?).ok().flatten();
        if inner.redrives.change(id, changed).await?.is_none() {
            // It has changed meanwhile, so that this can't be done any more: say why.
            change(&find(inner, id).await?)?;
        }
        inner.redrive_changed.notify_one();
    }
    get(inner, id).await
}

fn over(redrive: &RedriveDocument) -> DlqError {
    let words = format!("redrive {} is {}", redrive.id, redrive.phase.view().as_str_name());
    DlqError::Precondition("REDRIVE_OVER", words)
}

pub(crate) async fn pause<M: Message>(
    inner: &Inner,
    who: (&str, &str, &str),
    request: &M,
    trace: &TraceParent,
) -> Result<Redrive, DlqError> {
    let note = format!("paused by {}: {}", who.1, who.2);
    let paused = |redrive: &RedriveDocument| match redrive.phase {
        Phase::Canary | Phase::Running => Ok(Some(RedriveDocument {
            phase: Phase::Paused,
            note: note.clone(),
            updated_at: SystemTime::now(),
            current_rate: 0.0,
            ..redrive.clone()
        })),
        Phase::Paused => Ok(None),
        _ => Err(over(redrive)),
    };
    steer(inner, "PauseRedrive", who, request, trace, paused).await
}

pub(crate) async fn resume<M: Message>(
    inner: &Inner,
    who: (&str, &str, &str),
    request: &M,
    trace: &TraceParent,
) -> Result<Redrive, DlqError> {
    let resumed = |redrive: &RedriveDocument| match redrive.phase {
        // One that its canary stopped goes on without one.
        Phase::Paused | Phase::Stopped => {
            let canary = redrive.phase == Phase::Paused && redrive.progress.delivered < redrive.canary;
            Ok(Some(RedriveDocument {
                phase: if canary { Phase::Canary } else { Phase::Running },
                note: String::new(),
                ended_at: None,
                updated_at: SystemTime::now(),
                due_at: Some(SystemTime::now()),
                ..redrive.clone()
            }))
        }
        Phase::Canary | Phase::Running => Ok(None),
        _ => Err(over(redrive)),
    };
    steer(inner, "ResumeRedrive", who, request, trace, resumed).await
}

pub(crate) async fn cancel<M: Message>(
    inner: &Inner,
    who: (&str, &str, &str),
    request: &M,
    trace: &TraceParent,
) -> Result<Redrive, DlqError> {
    let note = format!("cancelled by {}: {}", who.1, who.2);
    let cancelled = |redrive: &RedriveDocument| match redrive.phase {
        Phase::Cancelled => Ok(None),
        Phase::Completed => Err(over(redrive)),
        _ => Ok(Some(RedriveDocument {
            phase: Phase::Cancelled,
            note: note.clone(),
            ended_at: Some(SystemTime::now()),
            updated_at: SystemTime::now(),
            current_rate: 0.0,
            ..redrive.clone()
        })),
    };
    let view = steer(inner, "CancelRedrive", who, request, trace, cancelled).await?;
    let parts = inner.redrives.get(who.0).await?.map_or(0, |found| found.document.parts);
    inner.forget_parts(who.0, parts).await;
    Ok(view)
}
