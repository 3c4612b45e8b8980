//! Unary calls as JSON.

use reqwest::{Method, StatusCode};
use runmesh_gateway::GatewayConfig;
use serde_json::{Value, json};

use crate::fake::Running;

async fn problem(response: reqwest::Response, status: u16) -> Value {
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["status"], status);
    problem
}

fn field(problem: &Value) -> &str {
    problem["violations"][0]["field"].as_str().unwrap()
}

#[tokio::test]
async fn a_request_is_made_of_path_query_and_body() {
    let mesh = Running::open().await;
    let body =
        r#"{"requestId": "r1", "spec": {"language_version": "3", "stdin": "/w==", "limits": {"outputBytes": "5"}}}"#;
    let created: Value = mesh.post("/v1/executions", body).await.json().await.unwrap();
    let spec = &created["execution"]["spec"];
    assert_eq!(created["execution"]["executionId"], "r1");
    assert_eq!(spec["languageVersion"], "3");
    assert_eq!(spec["stdin"], "/w==");
    assert_eq!(spec["limits"]["outputBytes"], "5");

    let got: Value = mesh.get("/v1/executions/a%20b").await.json().await.unwrap();
    assert_eq!(got["execution"]["executionId"], "a b");
    assert_eq!(got["execution"]["exitCode"], 0);
    assert_eq!(got["execution"]["lastSequence"], u64::MAX.to_string());
    assert_eq!(got["execution"]["closed"], false, "defaults are there");
    assert_eq!(got["execution"].get("startedAt"), None, "absent fields are not");

    let query = "?page_size=3&state=EXECUTION_STATE_FAILED&labels=a&labels=b";
    let list: Value = mesh.get(&format!("/v1/executions{query}")).await.json().await.unwrap();
    assert_eq!(list, json!({"executions": [], "nextPageToken": "3 Failed [\"a\", \"b\"]"}));

    let cancelled: Value = mesh.post("/v1/executions/17:cancel", r#"{"reason": "why"}"#).await.json().await.unwrap();
    assert_eq!(cancelled["execution"]["executionId"], "17");
    assert_eq!(cancelled["execution"]["errorMessage"], "why");

    // Without a body, as `curl -X POST` sends it.
    let url = format!("{}/v1/executions/17:cancel", mesh.url);
    assert_eq!(mesh.http.post(url).send().await.unwrap().status(), StatusCode::OK);
    let limits: Value = mesh.get("/v1/limits").await.json().await.unwrap();
    assert_eq!(limits["maximumSourceBytes"], "9007199254740993", "64-bit integers keep their value");
}

#[tokio::test]
async fn bad_input_is_a_problem_that_names_the_field() {
    let mesh = Running::open().await;
    assert_eq!(field(&problem(mesh.get("/v1/executions?nope=1").await, 400).await), "nope");
    assert_eq!(field(&problem(mesh.get("/v1/executions?page_size=many").await, 400).await), "page_size");
    assert_eq!(field(&problem(mesh.get("/v1/executions?access_token=x").await, 400).await), "access_token");
    let nested = r#"{"spec": {"nope": 1}}"#;
    assert_eq!(field(&problem(mesh.post("/v1/executions", nested).await, 400).await), "spec.nope");
    assert_eq!(field(&problem(mesh.post("/v1/executions", "{").await, 400).await), "body");
    assert_eq!(field(&problem(mesh.post("/v1/executions?requestId=1", "{}").await, 400).await), "requestId");
    assert_eq!(field(&problem(mesh.get("/v1/executions/%ff").await, 400).await), "execution_id");
    let other = r#"{"executionId": "18"}"#;
    assert_eq!(field(&problem(mesh.post("/v1/executions/17:cancel", other).await, 400).await), "execution_id");
    let same = r#"{"executionId": "17"}"#;
    assert_eq!(mesh.post("/v1/executions/17:cancel", same).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn errors_of_the_service_keep_their_code_reason_and_delay() {
    let mesh = Running::open().await;
    let missing = problem(mesh.get("/v1/executions/missing").await, 404).await;
    assert_eq!((&missing["code"], &missing["reason"]), (&json!("NOT_FOUND"), &json!("EXECUTION_NOT_FOUND")));
    assert_eq!(missing["type"], "about:blank");
    assert_eq!(missing["title"], "Not Found");

    let response = mesh.get("/v1/executions/busy").await;
    assert_eq!(response.headers()["retry-after"], "7");
    let busy = problem(response, 429).await;
    assert_eq!(busy["retryAfter"], 7.0);

    let retry = problem(mesh.post("/v1/executions/17:retry", "{}").await, 400).await;
    assert_eq!(retry["code"], "FAILED_PRECONDITION");

    let internal = problem(mesh.get("/v1/executions/17:wait").await, 500).await;
    assert!(!internal["detail"].as_str().unwrap().contains("secret path"));
    assert!(internal["metadata"]["error_id"].is_string());

    // A service that panics is an internal error too, and the gateway goes on.
    problem(mesh.get("/v1/example-scripts").await, 500).await;
    // A service of the contract that does not run here.
    let absent = problem(mesh.get("/v1/executions/17/result").await, 501).await;
    assert_eq!(absent["code"], "UNIMPLEMENTED");
}

#[tokio::test]
async fn the_callers_deadline_goes_on_behind_the_gateway() {
    let mesh = Running::open().await;
    let within = async |path: &str, timeout: &str| {
        mesh.http.get(format!("{}{path}", mesh.url)).header("grpc-timeout", timeout).send().await.unwrap()
    };
    let late = problem(within("/v1/executions/hangs", "100m").await, 504).await;
    assert_eq!(late["code"], "DEADLINE_EXCEEDED");
    assert_eq!(within("/v1/executions/17", "20S").await.status(), StatusCode::OK);
    assert_eq!(field(&problem(within("/v1/executions/17", "soon").await, 400).await), "grpc-timeout");
    let stream = within("/v1/executions/idle:watch", "3S").await.text().await.unwrap();
    assert!(stream.contains("event: error") && stream.contains("DEADLINE_EXCEEDED"), "{stream}");
}

#[tokio::test]
async fn errors_of_http_are_problems_too() {
    let mesh = Running::start(GatewayConfig { max_body_bytes: 1000, ..Default::default() }).await;
    assert_eq!(problem(mesh.get("/v1/nothing").await, 404).await["reason"], "PATH_NOT_FOUND");
    problem(mesh.get("/v1/executions/17:nothing").await, 404).await;

    let response = mesh.get("/v1/executions/17:cancel").await;
    assert_eq!(response.headers()["allow"], "POST");
    problem(response, 405).await;

    let large = format!(r#"{{"requestId": "{}"}}"#, "x".repeat(2000));
    problem(mesh.post("/v1/executions", &large).await, 413).await;

    let url = format!("{}/v1/executions", mesh.url);
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let mut request = mesh.http.post(&url).body("{}");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        problem(request.send().await.unwrap(), 415).await;
    }
    let request = mesh.http.post(&url).body("{}").header("content-type", "application/json; charset=utf-8");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_makes_too_large_a_message_is_413() {
    let mesh = Running::open().await;
    let large = format!(r#"{{"requestId": "{}"}}"#, "x".repeat(runmesh_rpc::MAX_REQUEST_BYTES + 1));
    let large = problem(mesh.post("/v1/executions", &large).await, 413).await;
    assert_eq!(large["reason"], "REQUEST_TOO_LARGE");
    assert!(large["detail"].as_str().unwrap().contains(&runmesh_rpc::MAX_REQUEST_BYTES.to_string()));
}

#[tokio::test]
async fn a_token_is_needed_except_for_public_methods() {
    let mesh = Running::closed().await;
    let response = mesh.get("/v1/executions/17").await;
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    assert_eq!(problem(response, 401).await["code"], "UNAUTHENTICATED");
    assert_eq!(mesh.get("/v1/runtimes").await.status(), StatusCode::OK);
    // Only streams take the token from the query.
    problem(mesh.get("/v1/executions/17?access_token=s3cret").await, 401).await;
    for (token, status) in [("wrong", 401), ("s3cret", 200)] {
        let request = mesh.http.get(format!("{}/v1/executions/17", mesh.url)).bearer_auth(token);
        assert_eq!(request.send().await.unwrap().status(), status);
    }
}

#[tokio::test]
async fn the_trace_goes_on_behind_the_gateway() {
    let mesh = Running::open().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = mesh.http.post(format!("{}/v1/executions", mesh.url)).header("content-type", "application/json");
    let request = request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01")).body("{}");
    let created: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(created["execution"]["errorMessage"], trace);
}

#[tokio::test]
async fn pages_of_other_sites_get_nothing_unless_they_are_allowed() {
    let origin = "https://app.example";
    let mesh = Running::start(GatewayConfig { cors_origins: vec![origin.to_owned()], ..Default::default() }).await;
    let url = format!("{}/v1/executions", mesh.url);
    let preflight = |origin: &str| {
        let request = mesh.http.request(Method::OPTIONS, &url).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        request.header("access-control-request-headers", "content-type,authorization").send()
    };
    let allowed = preflight(origin).await.unwrap();
    assert_eq!(allowed.headers()["access-control-allow-origin"], origin);
    assert!(allowed.headers()["access-control-allow-headers"].to_str().unwrap().contains("authorization"));
    let refused = preflight("https://evil.example").await.unwrap();
    assert_eq!(refused.headers().get("access-control-allow-origin"), None);

    let post = |origin: &str| {
        let request = mesh.http.post(&url).header("origin", origin).header("content-type", "application/json");
        request.body("{}").send()
    };
    let answer = post(origin).await.unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], origin);
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(problem(post("https://evil.example").await.unwrap(), 403).await["reason"], "ORIGIN_NOT_ALLOWED");

    let rebound = mesh.http.get(&url).header("host", "evil.example").send().await.unwrap();
    assert_eq!(problem(rebound, 403).await["reason"], "HOST_NOT_ALLOWED");
}
