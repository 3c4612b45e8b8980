//! The page and the paths that are not of the contract.

use reqwest::StatusCode;
use runmesh_proto::api::Access;
use serde_json::Value;

use crate::fake::Running;

#[tokio::test]
async fn health_and_metrics_are_served() {
    let mesh = Running::open().await;
    let health = mesh.get("/healthz").await;
    assert_eq!(health.status(), StatusCode::OK);
    assert_eq!(health.text().await.unwrap(), "ok\n");
    assert_eq!(mesh.get("/metrics").await.text().await.unwrap(), "up 1\n");

    let closed = Running::closed().await;
    assert_eq!(closed.get("/healthz").await.status(), StatusCode::OK);
    assert_eq!(closed.get("/metrics").await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_description_lists_every_method_that_is_offered() {
    let mesh = Running::open().await;
    let document: Value = mesh.get("/openapi.json").await.json().await.unwrap();
    let mut described: Vec<String> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|path| path.as_object().unwrap().values())
        .map(|operation| operation["x-grpc-method"].as_str().unwrap().to_owned())
        .collect();
    let pool = runmesh_proto::descriptors();
    let access = pool.get_extension_by_name("runmesh.api.v1.access").unwrap();
    let mut offered: Vec<String> = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .filter(|method| {
            let value = method.options().get_extension(&access).as_enum_number();
            value != Some(Access::Internal as i32)
        })
        .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()))
        .collect();
    described.sort();
    described.dedup();
    offered.sort();
    assert_eq!(described, offered);
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere_and_runs_its_own_script_only() {
    let mesh = Running::closed().await;
    let response = mesh.get("/").await;
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    let page = response.text().await.unwrap();
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(policy.starts_with("default-src 'none'"));
    assert!(page.contains(&format!("<script nonce=\"{nonce}\">")));
    assert!(!page.contains("{{nonce}}"));
    for foreign in ["http://", "https://", "//cdn", "@import", " src="] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let again = mesh.get("/").await;
    assert!(!again.headers()["content-security-policy"].to_str().unwrap().contains(nonce));
}
