//! The log of events through the gateway and the command line: files that Python's csv and jq read, a tail over SSE, a deletion.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Client, Mesh, bash, binary, eventually};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::succeed;

/// What the script writes: quotes, newlines, text beyond ASCII, and bytes that are no text.
const WRITTEN: &[u8] = b"a,\"b\";'c'\r\n\tcaf\xc3\xa9 \xf0\x9f\x98\x80\0\xff\xfe\n=1+1\n";
const SCRIPT: &str = "# \"quoted\", 'too'\tcaf\u{e9} \u{5f20}\nprintf 'a,\"b\";\\x27c\\x27\\r\\n\\tcaf\\xc3\\xa9 \\xf0\\x9f\\x98\\x80\\0\\xff\\xfe\\n=1+1\\n'\n";

/// Reads a table as a user of Python would, and prints what of it is compared.
const READ_CSV: &str = r#"
import base64, csv, json, sys
with open(sys.argv[1], newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file, strict=True))
payloads = [(row["event_type"], json.loads(row["payload_json"])) for row in rows]
output = b"".join(base64.b64decode(p.get("data", "")) for t, p in payloads if t == "execution_output")
scripts = [p["script"] for t, p in payloads if t == "execution_requested"]
print(json.dumps({"rows": len(rows), "columns": list(rows[0]), "output": list(output), "scripts": scripts,
                  "positions": [row["position"] for row in rows]}))
"#;

async fn get(mesh: &Mesh, path: &str) -> anyhow::Result<reqwest::Response> {
    Ok(reqwest::get(format!("{}{path}", mesh.http()?)).await?)
}

/// Runs the script, and waits until nothing more is recorded of it.
async fn run(client: &Client) -> anyhow::Result<String> {
    let transcript = client.run(bash(SCRIPT)).await?;
    ensure!(transcript.stdout()? == WRITTEN, "{:?}", transcript.stdout()?);
    Ok(transcript.complete()?.execution_id.clone())
}

/// Downloads a file, and checks what the browser is told of it.
async fn download(mesh: &Mesh, query: &str, content_type: &str, name: &str, to: &Path) -> anyhow::Result<()> {
    let response = get(mesh, &format!("/v1/events:export?{query}")).await?.error_for_status()?;
    let headers = response.headers();
    assert_eq!(headers["content-type"], content_type);
    assert_eq!(headers["content-disposition"], format!("attachment; filename=\"{name}\""));
    Ok(std::fs::write(to, response.bytes().await?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_are_read_by_pythons_csv_and_by_jq_without_a_loss() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let id = run(&mesh.client().await?).await?;
    let folder = tempfile::tempdir()?;
    let (table, lines) = (folder.path().join("events.csv"), folder.path().join("events.ndjson"));
    let query = format!("filter.executionId={id}");
    let csv = format!("{query}&format=EXPORT_FORMAT_CSV");
    download(&mesh, &csv, "text/csv; charset=utf-8", "events.csv", &table).await?;
    download(&mesh, &query, "application/x-ndjson", "events.ndjson", &lines).await?;

    let mut python = Command::new("python3");
    let read: Value = serde_json::from_str(&succeed(python.args(["-c", READ_CSV]).arg(&table), &mesh).await?)?;
    assert_eq!(read["output"], json!(WRITTEN));
    assert_eq!(read["scripts"], json!([SCRIPT]));
    assert_eq!((&read["columns"][0], &read["columns"][11]), (&json!("position"), &json!("payload_json")));

    let jq = async |program: &str| {
        let mut jq = Command::new("jq");
        anyhow::Ok(serde_json::from_str::<Value>(&succeed(jq.args(["-s", program]).arg(&lines), &mesh).await?)?)
    };
    assert_eq!(
        jq("map(select(.topic == \"execution_requested\").event.executionRequested.script)").await?,
        json!([SCRIPT])
    );
    assert_eq!(jq("map(.position)").await?, read["positions"]);
    assert_eq!(jq("map(.event.sequence | tonumber) == [range(1; length + 1)]").await?, json!(true));
    // By the command line it is the same file, and a table where its name says so.
    let (by_command, table_by_command) = (folder.path().join("command.ndjson"), folder.path().join("command.csv"));
    for file in [&by_command, &table_by_command] {
        let file = file.to_str().context("a path")?;
        events(&mesh, &["export", "--execution", &id, "--out", file]).await?;
    }
    ensure!(std::fs::read(&by_command)? == std::fs::read(&lines)?, "two files of the same events");
    ensure!(std::fs::read(&table_by_command)? == std::fs::read(&table)?, "two tables of the same events");
    Ok(())
}

/// Calls `runmesh events`.
async fn events(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(binary()?);
    succeed(command.arg("events").args(arguments).args(["--server", mesh.grpc()?]), mesh).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_finds_follows_and_counts_events() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let id = run(&client).await?;
    client.run(bash("exit 3")).await?;

    let listed = events(&mesh, &["ls", "--execution", &id, "--all", "--json"]).await?;
    let listed: Vec<Value> = listed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let last = listed.last().context("no event")?;
    assert_eq!((&last["topic"], &last["event"]["sequence"]), (&json!("execution_requested"), &json!("1")));
    let table = events(&mesh, &["ls", "--text", "5F20", "--oldest"]).await?;
    ensure!(table.lines().count() <= 1, "the text is that of the payload, not of its escapes: {table}");
    let table = events(&mesh, &["ls", "--text", "CAF\u{c9} \u{5f20}", "--oldest"]).await?;
    ensure!(table.lines().count() == 2 && table.contains("execution_requested"), "{table}");

    let event_id = last["event"]["eventId"].as_str().context("an id")?;
    let shown = events(&mesh, &["show", event_id]).await?;
    ensure!(shown.contains("sequence     1\n") && shown.contains("\neffects\n"), "{shown}");
    let stats = events(&mesh, &["stats", "--since", "1h"]).await?;
    ensure!(stats.contains("executions  2 asked for, 2 ended") && stats.contains("failed      50.0 %"), "{stats}");
    let tailed = {
        let mut command = Command::new(binary()?);
        command.args(["events", "tail", "--cursor", "0", "--type", "execution_failed", "--json", "--server"]);
        let mut child = command.arg(mesh.grpc()?).stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut lines =
            tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stdout.take().context("output")?));
        let first = lines.next_line().await?.context("no progress")?;
        ensure!(first.contains("progress"), "{first}");
        lines.next_line().await?.context("no event")?
    };
    ensure!(tailed.contains("\"exitCode\":3"), "{tailed}");
    Ok(())
}

/// The id, the name and the data of the next event of a stream.
async fn sse(response: &mut reqwest::Response, text: &mut String) -> anyhow::Result<BTreeMap<String, String>> {
    loop {
        if let Some((frame, rest)) = text.split_once("\n\n") {
            let fields = frame.lines().filter_map(|line| line.split_once(": "));
            let fields: BTreeMap<String, String> =
                fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            *text = rest.to_owned();
            if fields.contains_key("data") {
                return Ok(fields);
            }
            continue;
        }
        let more = tokio::time::timeout(crate::BOUND, response.chunk()).await??.context("the stream ended")?;
        text.push_str(std::str::from_utf8(&more)?);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_tails_over_sse_and_resumes() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let path = "/v1/events:tail?filter.eventTypes=EVENT_TYPE_EXECUTION_COMPLETED";
    let mut response = get(&mesh, path).await?.error_for_status()?;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    let first = sse(&mut response, &mut text).await?;
    assert_eq!(first["event"], "progress");
    let one = run(&client).await?;
    let seen = sse(&mut response, &mut text).await?;
    let data: Value = serde_json::from_str(&seen["data"])?;
    assert_eq!((seen["event"].as_str(), &data["event"]["event"]["aggregateId"]), ("event", &json!(one)));
    assert_eq!(data["event"]["position"], json!(seen["id"]));
    drop(response);

    // What came meanwhile is shown to one that comes back, and nothing twice: after the event, and after the progress.
    let two = run(&client).await?;
    let http = reqwest::Client::new();
    for (id, wanted) in [(&seen["id"], vec![&two]), (&first["id"], vec![&one, &two])] {
        let request = http.get(format!("{}{path}", mesh.http()?)).header("last-event-id", id);
        let (mut response, mut text) = (request.send().await?.error_for_status()?, String::new());
        assert_eq!(sse(&mut response, &mut text).await?["event"], "progress");
        for wanted in wanted {
            let data: Value = serde_json::from_str(&sse(&mut response, &mut text).await?["data"])?;
            assert_eq!(&data["event"]["event"]["aggregateId"], &json!(wanted));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_deleted_and_the_log_stays_sound() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let id = run(&client).await?;
    let page: Value =
        get(&mesh, &format!("/v1/events?filter.executionId={id}&orderBy=recorded_at")).await?.json().await?;
    let request = &page["events"][0]["event"];
    assert_eq!(request["executionRequested"]["script"], json!(SCRIPT));
    let event_id = request["eventId"].as_str().context("an id")?;
    let http = reqwest::Client::new();
    let url = format!("{}/v1/events/{event_id}", mesh.http()?);
    let refused = http.delete(&url).send().await?;
    assert_eq!(refused.status().as_u16(), 400);
    let problem: Value = refused.json().await?;
    let fields: Vec<&str> = problem["violations"]
        .as_array()
        .context("violations")?
        .iter()
        .filter_map(|one| one["field"].as_str())
        .collect();
    assert_eq!(fields, ["actor", "reason"]);
    let deleted: Value =
        http.delete(format!("{url}?actor=ann&reason=a+password")).send().await?.error_for_status()?.json().await?;
    let left = &deleted["event"]["event"]["executionRequested"];
    assert_eq!((&left["executionId"], &left["script"], &left["language"]), (&json!(id), &json!(""), &json!("")));
    let detail: Value = get(&mesh, &format!("/v1/events/{event_id}")).await?.json().await?;
    assert_eq!(detail["detail"]["deletion"]["reason"], json!("a password"));
    // What is shown of the execution comes from elsewhere, and watchers go on.
    ensure!(client.follow(&id).await?.complete()?.execution_id == id, "the execution is still there");
    eventually("the log is sound", async || {
        let mut verify = Command::new(binary()?);
        let said = verify.args(["verify", "--server", mesh.grpc()?]).output().await?;
        Ok(said.status.success().then_some(()))
    })
    .await?;
    Ok(())
}
