//! `runmesh dlq retry` and `runmesh dlq discard`.

use std::process::ExitCode;

use runmesh_proto::dlq::{DiscardDeadLettersRequest, LetterResult, RetryDeadLettersRequest};
use tonic::Status;

use super::{
    Client, actor, open,
    pages::show,
    refused,
    table::{Table, left},
    words,
};
use crate::{Environment, cli::dlq::LettersArgs};

/// How many letters one call takes.
const AT_ONCE: usize = 1_000;

pub(super) async fn retry(args: LettersArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let call = async |client: &mut Client, asked: Asked| {
        let Asked { dead_letter_ids, actor, reason } = asked;
        let answer = client.retry_dead_letters(RetryDeadLettersRequest { dead_letter_ids, actor, reason }).await?;
        Ok(answer.into_inner().results)
    };
    act(args, environment, "delivered again", call).await
}

pub(super) async fn discard(args: LettersArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let call = async |client: &mut Client, asked: Asked| {
        let Asked { dead_letter_ids, actor, reason } = asked;
        let answer = client.discard_dead_letters(DiscardDeadLettersRequest { dead_letter_ids, actor, reason }).await?;
        Ok(answer.into_inner().results)
    };
    act(args, environment, "discarded", call).await
}

/// What one call asks for.
struct Asked {
    dead_letter_ids: Vec<String>,
    actor: String,
    reason: String,
}

/// Calls for all letters, and shows what came of each.
async fn act(
    args: LettersArgs,
    environment: &Environment,
    done: &'static str,
    call: impl AsyncFn(&mut Client, Asked) -> Result<Vec<LetterResult>, Status>,
) -> anyhow::Result<ExitCode> {
    let actor = actor(args.why.actor, environment)?;
    let mut client = open(&args.output.server).await?;
    let mut outcome = Outcome::new(args.output.json, done);
    for ids in args.ids.chunks(AT_ONCE) {
        let asked = Asked { dead_letter_ids: ids.to_vec(), actor: actor.clone(), reason: args.why.reason.clone() };
        outcome.show(&call(&mut client, asked).await.map_err(|status| refused(&status))?)?;
    }
    Ok(outcome.code())
}

/// What came of the letters.
struct Outcome {
    as_json: bool,
    /// What was done with those with which all went well.
    done: &'static str,
    table: Table,
    all_ok: bool,
}

impl Outcome {
    fn new(as_json: bool, done: &'static str) -> Self {
        Self { as_json, done, table: Table::new([left("ID"), left("RESULT"), left("WHY")]), all_ok: true }
    }

    fn show(&mut self, results: &[LetterResult]) -> anyhow::Result<()> {
        self.all_ok &= results.iter().all(|result| result.ok);
        let done = self.done;
        show(self.as_json, "runmesh.dlq.v1.LetterResult", results, &mut self.table, |result| row(result, done))
    }

    /// A failure, if there was one with any letter.
    fn code(&self) -> ExitCode {
        if self.all_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn row(result: &LetterResult, done: &str) -> Vec<String> {
    let outcome = if result.ok { done.to_owned() } else { words::name(&result.code, "") };
    vec![result.dead_letter_id.clone(), outcome, result.message.clone()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_letter_has_its_result() {
        let fine = LetterResult { dead_letter_id: "1".to_owned(), ok: true, ..LetterResult::default() };
        let over = LetterResult {
            dead_letter_id: "2".to_owned(),
            code: "NOT_FOUND".to_owned(),
            message: "there is no such letter".to_owned(),
            ..LetterResult::default()
        };
        assert_eq!(row(&fine, "discarded"), ["1", "discarded", ""]);
        assert_eq!(row(&over, "discarded"), ["2", "not-found", "there is no such letter"]);
    }
}
