//! Read models that are built anew.

use std::time::Duration;

use super::{Harness, Job};
use crate::{Begun, ReadModel, RebuildError};

/// The other collection.
const OTHER: &str = "conformance_jobs_2";

/// How long a change of a placement takes until all go by it.
const SETTLED: Duration = Duration::from_millis(600);

/// What one process has of it.
async fn open<H: Harness>(harness: &H) -> ReadModel<Job> {
    ReadModel::open(harness.documents(), OTHER).await.unwrap()
}

/// Writes a document as an event has it written.
async fn write(model: &ReadModel<Job>, id: u32) {
    for documents in model.written().await.unwrap() {
        if documents.get(&id.to_string()).await.unwrap().is_none() {
            documents.insert(&Job::new(id, "ann", 1)).await.unwrap();
        }
    }
}

async fn has(model: &ReadModel<Job>, ids: [u32; 3]) -> [bool; 3] {
    let mut found = [false; 3];
    for (found, id) in found.iter_mut().zip(ids) {
        *found = model.get(&id.to_string()).await.unwrap().is_some();
    }
    found
}

/// Two processes use it while it is built: what they write is in the new one as in the old one, what is read is the old one
/// until the new one is complete, and nothing is left of the old one.
pub async fn a_read_model_is_built_beside_the_one_in_use<H: Harness>() {
    let harness = H::new().await;
    let (builder, user) = (open(&harness).await, open(&harness).await);
    for id in [1, 2] {
        write(&user, id).await;
    }
    assert!(builder.beside().await.is_err());
    assert_eq!(builder.placements().begin("r", SETTLED).await.unwrap(), Begun::Anew);
    assert_eq!(builder.placements().held_by().await.unwrap().as_deref(), Some("r"));
    write(&user, 3).await;
    assert_eq!(has(&user, [1, 2, 3]).await, [true; 3]);
    let beside = builder.beside().await.unwrap();
    assert!(beside.get("3").await.unwrap().is_some() && beside.get("1").await.unwrap().is_none());
    // The log has the first one, and not the second.
    beside.insert(&Job::new(1, "new", 1)).await.unwrap();
    user.delete("3").await.unwrap();
    assert!(beside.get("3").await.unwrap().is_none());
    assert_eq!(has(&user, [1, 2, 3]).await, [true, true, false]);
    assert_eq!(user.get("1").await.unwrap().unwrap().document.owner, "ann");

    builder.placements().finish("r", SETTLED).await.unwrap();
    assert_eq!(has(&user, [1, 2, 3]).await, [true, false, false]);
    assert_eq!(user.get("1").await.unwrap().unwrap().document.owner, "new");
    assert_eq!(user.written().await.unwrap().len(), 1);
    assert_eq!(builder.placements().held_by().await.unwrap(), None);
    assert_eq!(harness.documents().delete_some("conformance_jobs", 10).await.unwrap(), 0, "the old one is empty");

    // The next one is built where the first one was.
    assert_eq!(builder.placements().begin("s", SETTLED).await.unwrap(), Begun::Anew);
    builder.placements().finish("s", SETTLED).await.unwrap();
    assert_eq!(has(&user, [1, 2, 3]).await, [false; 3]);
    assert_eq!(harness.documents().delete_some(OTHER, 10).await.unwrap(), 0, "the old one is empty");
}

/// A rebuild that is begun again goes on with what it has; one that is finished again changes nothing.
pub async fn a_rebuild_goes_on_after_a_crash<H: Harness>() {
    let harness = H::new().await;
    let before = open(&harness).await;
    assert_eq!(before.placements().begin("r", Duration::ZERO).await.unwrap(), Begun::Anew);
    before.beside().await.unwrap().insert(&Job::new(1, "ann", 1)).await.unwrap();
    drop(before);
    let model = open(&harness).await;
    assert_eq!(model.placements().begin("r", Duration::ZERO).await.unwrap(), Begun::GoesOn);
    assert!(model.beside().await.unwrap().get("1").await.unwrap().is_some());
    // It is cut after the swap.
    let cut = model.placements().finish("r", Duration::from_secs(3_600));
    assert!(tokio::time::timeout(SETTLED, cut).await.is_err());
    let model = open(&harness).await;
    assert_eq!(has(&model, [1, 2, 3]).await, [true, false, false]);
    assert_eq!(model.placements().begin("r", Duration::ZERO).await.unwrap(), Begun::GoesOn);
    for _ in 0..2 {
        model.placements().finish("r", Duration::ZERO).await.unwrap();
        assert_eq!(model.placements().begin("r", Duration::ZERO).await.unwrap(), Begun::Finished);
    }
    assert_eq!(has(&model, [1, 2, 3]).await, [true, false, false]);
}

/// While one is being built another one is refused; one that is given up is not put to use, and leaves nothing.
pub async fn of_two_rebuilds_one_waits_for_the_other<H: Harness>() {
    let harness = H::new().await;
    let model = open(&harness).await;
    let placements = model.placements();
    placements.begin("r", Duration::ZERO).await.unwrap();
    let busy = placements.begin("s", Duration::ZERO).await.unwrap_err();
    assert!(matches!(&busy, RebuildError::Busy { model: "conformance_jobs", by } if by == "r"), "{busy}");
    model.beside().await.unwrap().insert(&Job::new(1, "ann", 1)).await.unwrap();
    placements.release("s").await.unwrap();
    assert_eq!(placements.held_by().await.unwrap().as_deref(), Some("r"), "it is not the other one's to give up");
    placements.release("r").await.unwrap();
    assert_eq!(model.written().await.unwrap().len(), 1);
    let lost = placements.finish("r", Duration::ZERO).await.unwrap_err();
    assert!(matches!(&lost, RebuildError::Lost { .. }), "{lost}");
    assert!(placements.begin("s", Duration::ZERO).await.is_err(), "it is not empty yet");
    placements.empty("r", Duration::ZERO).await.unwrap();
    assert_eq!(placements.begin("s", Duration::ZERO).await.unwrap(), Begun::Anew);
    assert!(model.beside().await.unwrap().get("1").await.unwrap().is_none());
    placements.finish("s", Duration::ZERO).await.unwrap();
    assert_eq!(has(&model, [1, 2, 3]).await, [false; 3]);
}
