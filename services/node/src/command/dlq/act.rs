//! `runmesh dlq retry` and `runmesh dlq discard`.

use std::process::ExitCode;

use runmesh_proto::dlq::{DiscardDeadLettersRequest, LetterResult, RetryDeadLettersRequest};

use super::{
    actor, open,
    pages::show,
    refused,
    table::{Table, left},
    words,
};
use crate::{Environment, cli::dlq::LettersArgs};

/// How many letters one call takes.
const AT_ONCE: usize = 1_000;

pub(super) async fn retry(args: LettersArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let actor = actor(args.why.actor, environment)?;
    let mut client = open(&args.output.server).await?;
    let mut outcome = Outcome::new(args.output.json, "delivered again");
    for ids in args.ids.chunks(AT_ONCE) {
        let (dead_letter_ids, reason) = (ids.to_vec(), args.why.reason.clone());
        let request = RetryDeadLettersRequest { dead_letter_ids, actor: actor.clone(), reason };
        let answer = client.retry_dead_letters(request).await.map_err(|status| refused(&status))?;
        outcome.show(&answer.into_inner().results)?;
    }
    Ok(outcome.code())
}

pub(super) async fn discard(args: LettersArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let actor = actor(args.why.actor, environment)?;
    let mut client = open(&args.output.server).await?;
    let mut outcome = Outcome::new(args.output.json, "discarded");
    for ids in args.ids.chunks(AT_ONCE) {
        let (dead_letter_ids, reason) = (ids.to_vec(), args.why.reason.clone());
        let request = DiscardDeadLettersRequest { dead_letter_ids, actor: actor.clone(), reason };
        let answer = client.discard_dead_letters(request).await.map_err(|status| refused(&status))?;
        outcome.show(&answer.into_inner().results)?;
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
