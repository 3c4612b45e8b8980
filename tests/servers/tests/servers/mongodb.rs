//! FerretDB, seen by MongoDB's own client.

use std::time::Duration;

use anyhow::ensure;
use futures::future::try_join_all;
use mongodb::{
    Client, Collection,
    bson::{Document, doc},
    options::ClientOptions,
};
use runmesh_servers::MongoLike;

use crate::processes::nothing_is_left;

async fn collection(uri: &str) -> anyhow::Result<Collection<Document>> {
    Ok(Client::with_uri_str(uri).await?.database("test").collection("documents"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_or_stopped_has_its_documents_when_it_is_started_again() -> anyhow::Result<()> {
    let mut server = MongoLike::start()?;
    let (uri, folder) = (server.uri(), server.folder().to_owned());
    collection(&uri).await?.insert_one(doc! { "_id": 1 }).await?;
    server.kill()?;
    assert!(server.pid().is_err() && server.kill().is_err() && server.resume().is_err());
    server.start_again()?;
    assert!(server.start_again().is_err(), "it runs already");
    assert_eq!(server.uri(), uri);
    collection(&uri).await?.insert_one(doc! { "_id": 2 }).await?;
    server.stop()?;
    server.start_again()?;
    assert_eq!(collection(&uri).await?.count_documents(doc! {}).await?, 2);
    drop(server);
    nothing_is_left(&folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_server_says_nothing_until_it_is_resumed() -> anyhow::Result<()> {
    let server = MongoLike::start()?;
    let documents = collection(&server.uri()).await?;
    documents.insert_one(doc! { "_id": 1 }).await?;
    server.pause()?;
    let silent = tokio::time::timeout(Duration::from_millis(500), documents.count_documents(doc! {})).await;
    assert!(silent.is_err());
    server.resume()?;
    assert_eq!(documents.count_documents(doc! {}).await?, 1);
    Ok(())
}

/// Without the front several win, and increments are lost: FerretDB reads and writes a document in two steps.
#[tokio::test(flavor = "multi_thread")]
async fn of_sixteen_that_compare_and_set_one_wins_and_no_increment_is_lost() -> anyhow::Result<()> {
    let server = MongoLike::start()?;
    // A connection for each.
    let mut options = ClientOptions::parse(server.uri()).await?;
    options.min_pool_size = Some(16);
    options.max_pool_size = Some(16);
    let documents = Client::with_options(options)?.database("test").collection::<Document>("documents");
    documents.insert_one(doc! { "_id": 1, "round": 0, "sum": 0 }).await?;
    for round in 0..40 {
        let (filter, update) = (doc! { "_id": 1, "round": round }, doc! { "$set": { "round": round + 1 } });
        let all = (0..16).map(|_| {
            let (documents, filter, update) = (documents.clone(), filter.clone(), update.clone());
            async move {
                let (won, _) = tokio::try_join!(
                    documents.update_one(filter, update),
                    documents.update_one(doc! { "_id": 1 }, doc! { "$inc": { "sum": 1 } }),
                )?;
                anyhow::Ok(won.modified_count)
            }
        });
        let winners: u64 = try_join_all(all).await?.into_iter().sum();
        ensure!(winners == 1, "{winners} winners in round {round}");
    }
    let last = documents.find_one(doc! {}).await?.unwrap_or_default();
    assert_eq!(last.get_i32("sum")?, 40 * 16);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_workers_lease_each_job_once() -> anyhow::Result<()> {
    let server = MongoLike::start()?;
    let jobs = collection(&server.uri()).await?;
    jobs.insert_many((0..200).map(|id| doc! { "_id": id, "owner": "" })).await?;
    let workers = (0..16).map(|worker| {
        let jobs = jobs.clone();
        async move {
            let mut leased = 0;
            let owner = format!("worker {worker}");
            while jobs.find_one_and_update(doc! { "owner": "" }, doc! { "$set": { "owner": &owner } }).await?.is_some()
            {
                leased += 1;
            }
            anyhow::Ok(leased)
        }
    });
    assert_eq!(try_join_all(workers).await?.into_iter().sum::<i32>(), 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_many_megabytes_pass() -> anyhow::Result<()> {
    let server = MongoLike::start()?;
    let documents = collection(&server.uri()).await?;
    let large = |id: i32| doc! { "_id": id, "text": "x".repeat(12 << 20) };
    documents.insert_many((0..3).map(large)).await?;
    let found = documents.find_one(doc! { "_id": 2 }).await?.unwrap_or_default();
    assert_eq!(found.get_str("text")?.len(), 12 << 20);
    Ok(())
}
