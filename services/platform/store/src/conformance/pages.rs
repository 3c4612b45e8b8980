//! Paging through an index.

use super::{Harness, Job, jobs};
use crate::{Documents, IndexValue, PageQuery, StoreError};

/// 3 owners x 5 priorities x 4 jobs each, so that every value of an index is there more than once.
async fn filled<H: Harness>(harness: &H) -> Documents<Job> {
    let jobs = jobs(harness).await;
    for number in 0..60_i64 {
        let owner = ["ann", "bob", "cyd"][usize::try_from(number % 3).unwrap()];
        jobs.insert(&Job::new(format!("job-{:02}", number * 37 % 60), owner, number % 5)).await.unwrap();
    }
    jobs
}

/// All documents of a query from its place on, page by page.
async fn all(jobs: &Documents<Job>, query: PageQuery) -> Vec<Job> {
    let (mut found, mut after) = (Vec::new(), query.after.clone());
    loop {
        let page = jobs.page(PageQuery { after, ..query.clone() }).await.unwrap();
        assert!(page.documents.len() <= query.limit);
        found.extend(page.documents.into_iter().map(|document| document.document));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

fn by(index: &'static str, limit: usize) -> PageQuery {
    PageQuery { index, limit, ..PageQuery::default() }
}

/// Whatever the length of a page: everything once, in the order of the index, equal ones by id; and the reverse.
pub async fn pages_go_through_everything_once_in_order<H: Harness>() {
    let harness = H::new().await;
    let jobs = filled(&harness).await;
    let mut expected = all(&jobs, by("by_owner", 1_000)).await;
    assert_eq!(expected.len(), 60);
    let key = |job: &Job| (job.owner.clone(), job.priority, job.id.clone());
    assert!(expected.is_sorted_by_key(key));
    for limit in [1, 7, 59, 60, 61] {
        assert_eq!(all(&jobs, by("by_owner", limit)).await, expected, "pages of {limit}");
    }
    expected.reverse();
    for limit in [1, 7, 60] {
        let query = PageQuery { descending: true, ..by("by_owner", limit) };
        assert_eq!(all(&jobs, query).await, expected, "pages of {limit}, descending");
    }
    let by_priority = all(&jobs, by("by_priority", 8)).await;
    assert!(by_priority.len() == 60 && by_priority.is_sorted_by_key(|job| (job.priority, job.id.clone())));
    let last = jobs.page(by("by_owner", 60)).await.unwrap();
    assert!(last.next.is_none(), "a full last page has no next");
}

/// Equal prefixes, bounds on the field behind them, and both together, in both directions.
pub async fn bounds_and_equal_prefixes_select<H: Harness>() {
    let harness = H::new().await;
    let jobs = filled(&harness).await;
    let bob = vec![IndexValue::from("bob")];
    for descending in [false, true] {
        let query = PageQuery { descending, ..by("by_owner", 3) };
        let found = all(&jobs, PageQuery { equal: bob.clone(), ..query.clone() }).await;
        assert!(found.len() == 20 && found.iter().all(|job| job.owner == "bob"));
        let two = vec![IndexValue::from("bob"), IndexValue::from(2)];
        let found = all(&jobs, PageQuery { equal: two, ..query.clone() }).await;
        assert!(found.len() == 4 && found.iter().all(|job| job.owner == "bob" && job.priority == 2));
        let bounded =
            PageQuery { equal: bob.clone(), at_least: Some(1.into()), less_than: Some(3.into()), ..query.clone() };
        let mut found = all(&jobs, bounded).await;
        assert!(found.len() == 8 && found.iter().all(|job| job.owner == "bob" && (1..3).contains(&job.priority)));
        if descending {
            found.reverse();
        }
        assert!(found.is_sorted_by_key(|job| (job.priority, job.id.clone())));
        let found = all(&jobs, PageQuery { at_least: Some("bob".into()), ..query.clone() }).await;
        assert_eq!(found.len(), 40);
        let nobody = PageQuery { equal: vec!["nobody".into()], ..query };
        assert!(all(&jobs, nobody).await.is_empty());
    }
}

/// A page token names a place, not a number: what comes and goes elsewhere moves nothing.
pub async fn a_page_goes_on_where_it_ended_though_documents_come_and_go<H: Harness>() {
    let harness = H::new().await;
    let jobs = filled(&harness).await;
    let page = jobs.page(by("by_priority", 10)).await.unwrap();
    let last = page.documents.last().unwrap().document.clone();
    jobs.insert(&Job::new("early", "ann", -1)).await.unwrap();
    jobs.insert(&Job::new("late", "ann", 99)).await.unwrap();
    assert!(jobs.delete(&last.id).await.unwrap());
    let rest = all(&jobs, PageQuery { after: page.next, ..by("by_priority", 9) }).await;
    assert_eq!(rest.len(), 51);
    assert!(rest.iter().all(|job| (job.priority, &job.id) > (last.priority, &last.id)));
}

/// Mistakes in a query are told, not guessed at.
pub async fn queries_without_meaning_are_invalid<H: Harness>() {
    let harness = H::new().await;
    let jobs = filled(&harness).await;
    let token = |text: &str| PageQuery { after: Some(text.to_owned()), ..by("by_owner", 5) };
    let three = vec!["ann".into(), 1.into(), 1.into()];
    let other = jobs.page(by("by_priority", 5)).await.unwrap().next.unwrap();
    let queries = [
        ("an index that is not there", by("by_nothing", 5)),
        ("no documents", by("by_owner", 0)),
        ("too many documents", by("by_owner", 1_001)),
        ("more values than fields", PageQuery { equal: three, ..by("by_owner", 5) }),
        (
            "a bound without a field",
            PageQuery { equal: vec!["ann".into(), 1.into()], at_least: Some(1.into()), ..by("by_owner", 5) },
        ),
        ("an empty token", token("")),
        ("a token that is no token", token("nonsense")),
        ("a token of the wrong shape", token("{}")),
        ("a token of another index", token(&other)),
    ];
    for (case, query) in queries {
        let result = jobs.page(query).await;
        assert!(matches!(&result, Err(StoreError::Invalid(_))), "{case}: {:?}", result.map(|page| page.next));
    }
}
