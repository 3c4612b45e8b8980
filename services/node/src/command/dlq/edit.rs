//! `runmesh dlq edit`.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::Context as _;
use prost_reflect::DynamicMessage;
use runmesh_proto::dlq::{DeadLetterDetail, EditAndRetryRequest};
use tempfile::TempDir;
use tokio::process::Command;

use super::{Stop, actor, list, open, print, refused, show};
use crate::{Environment, cli::dlq::EditArgs};

pub(super) async fn edit(args: EditArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let actor = actor(args.why.actor, environment)?;
    let mut client = open(&args.output.server).await?;
    let (payload, draft) = match &args.payload {
        Some(path) => (read(path)?, None),
        None => {
            let editor = environment.editor.as_deref();
            let editor = editor.context("--payload FILE is needed, since neither $VISUAL nor $EDITOR is set")?;
            let payload = payload_of(&show::get(&mut client, args.id.clone()).await?)?;
            let draft = Draft::new(&payload)?;
            let changed = draft.edit(editor).await?;
            if changed == payload {
                anyhow::bail!("nothing was changed, so nothing was sent; `dlq retry` delivers it as it is");
            }
            (changed, Some(draft))
        }
    };
    let sent = async {
        check(&payload)?;
        let request =
            EditAndRetryRequest { dead_letter_id: args.id, payload_json: payload, actor, reason: args.why.reason };
        let answer = client.edit_and_retry(request).await.map_err(|status| refused(&status))?;
        anyhow::Ok(answer.into_inner().dead_letter.unwrap_or_default())
    };
    // The editor's listener has taken the signals their usual effect.
    let mut stop = Stop::listen()?;
    let sent = tokio::select! {
        sent = sent => sent,
        () = stop.asked() => Err(anyhow::Error::msg("stopped before the node had answered")),
    };
    let letter = match (sent, draft) {
        (Ok(letter), _) => letter,
        (Err(error), Some(draft)) => {
            // What somebody wrote must not be lost.
            let path = draft.keep();
            return Err(error
                .context(format!("it was not delivered; your text is in {}, which --payload takes", path.display())));
        }
        (Err(error), None) => return Err(error),
    };
    if args.output.json {
        print::message(&letter, "runmesh.dlq.v1.DeadLetter")?;
    } else {
        for line in list::letters_table().lines(vec![list::letter(&letter, SystemTime::now())]) {
            print::line(line)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("--payload: can't read standard input")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| format!("--payload: can't read {}", path.display()))?;
    }
    Ok(text)
}

/// Whether it is JSON at all; the service says whether it is what the event's type wants.
fn check(payload: &str) -> anyhow::Result<()> {
    let value: serde_json::Value = serde_json::from_str(payload).context("the payload is not JSON")?;
    anyhow::ensure!(value.is_object(), "the payload is not a JSON object");
    Ok(())
}

/// The payload to begin with: the one in force. Of a record that is no event there is none.
fn payload_of(detail: &DeadLetterDetail) -> anyhow::Result<String> {
    let topic = detail.dead_letter.as_ref().map(|letter| letter.topic.as_str()).unwrap_or_default();
    let json = [&detail.edited_event_json, &detail.event_json].into_iter().find(|json| !json.is_empty());
    let Some(json) = json else { return Ok("{}\n".to_owned()) };
    // A field that is not known here would be lost on the way, so that is an error.
    let event = show::event(json).context("this runmesh does not know all of the event; use --payload")?;
    // The payload's field has the topic's name.
    let payload = event.get_field_by_name(topic).with_context(|| format!("there is no event type {topic:?}"))?;
    let payload: &DynamicMessage = payload.as_message().with_context(|| format!("{topic:?} is no payload"))?;
    Ok(show::pretty(payload)? + "\n")
}

/// A file for a person to change.
struct Draft {
    folder: TempDir,
}

impl Draft {
    const NAME: &str = "payload.json";

    fn new(text: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("runmesh-edit-").tempdir()?;
        std::fs::write(folder.path().join(Self::NAME), text)?;
        Ok(Self { folder })
    }

    /// Opens the editor, a command with arguments, and waits for its end.
    async fn edit(&self, editor: &str) -> anyhow::Result<String> {
        let path = self.folder.path().join(Self::NAME);
        // Ctrl-C is the editor's while it runs.
        let _stop = Stop::listen()?;
        let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(&path).status().await;
        let status = status.with_context(|| format!("can't start the editor {editor:?}"))?;
        anyhow::ensure!(status.success(), "the editor {editor:?} ended with {status}, so nothing was sent");
        std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))
    }

    /// Leaves the file where it is.
    fn keep(self) -> PathBuf {
        self.folder.keep().join(Self::NAME)
    }
}

#[cfg(test)]
mod tests {
    use runmesh_proto::dlq::DeadLetter;

    use super::*;

    fn detail(event: &str, edited: &str) -> DeadLetterDetail {
        DeadLetterDetail {
            dead_letter: Some(DeadLetter { topic: "execution_requested".to_owned(), ..DeadLetter::default() }),
            event_json: event.to_owned(),
            edited_event_json: edited.to_owned(),
            ..DeadLetterDetail::default()
        }
    }

    #[test]
    fn the_payload_in_force_is_what_is_edited() {
        let event =
            |language: &str| format!(r#"{{"eventId": "e1", "executionRequested": {{"language": "{language}"}}}}"#);
        let payload = |detail: &DeadLetterDetail| {
            serde_json::from_str::<serde_json::Value>(&payload_of(detail).unwrap()).unwrap()
        };
        let original = payload(&detail(&event("python"), ""));
        assert_eq!(original, serde_json::json!({"language": "python"}));
        let corrected = payload(&detail(&event("python"), &event("ruby")));
        assert_eq!(corrected["language"], "ruby");
        assert_eq!(payload_of(&detail("", "")).unwrap(), "{}\n");
        assert!(payload_of(&detail(r#"{"executionRequested": {"newField": 1}}"#, "")).is_err());
    }

    #[tokio::test]
    async fn the_editor_is_a_command_with_arguments() {
        let draft = Draft::new("{\"a\": 1}\n").unwrap();
        assert_eq!(draft.edit("sed -i s/1/2/").await.unwrap(), "{\"a\": 2}\n");
        assert!(draft.edit("false").await.unwrap_err().to_string().contains("nothing was sent"));
        let path = draft.keep();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\": 2}\n");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_is_no_object_is_not_sent() {
        assert!(check("{\"a\": 1}").is_ok());
        for payload in ["", "{", "[]", "1"] {
            assert!(check(payload).is_err(), "{payload}");
        }
    }
}
