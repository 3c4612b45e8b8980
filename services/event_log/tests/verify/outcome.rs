//! What a verification said.

use futures::{Stream, StreamExt as _, pin_mut};
use runmesh_event_log::VerifyError;
use runmesh_proto::event_log::{
    Finding, FindingKind, FindingSeverity, GroupLedger, Ledger, LogLedger, TopicLedger, VerifyResponse,
    verify_response::Item,
};

/// A verification that came to its end.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) findings: Vec<Finding>,
    pub(crate) stages: Vec<String>,
    pub(crate) ledger: Ledger,
}

impl Outcome {
    /// Reads all messages. The last is the ledger, and it alone has a cursor.
    pub(crate) async fn of(messages: impl Stream<Item = Result<VerifyResponse, VerifyError>>) -> Self {
        pin_mut!(messages);
        let (mut findings, mut stages, mut end) = (Vec::new(), Vec::new(), None);
        while let Some(message) = messages.next().await {
            let message = message.unwrap();
            assert!(end.is_none(), "a message after the end: {message:?}");
            assert_eq!(!message.cursor.is_empty(), matches!(message.item, Some(Item::End(_))));
            match message.item.unwrap() {
                Item::Progress(progress) => stages.push(progress.stage),
                Item::Finding(finding) => findings.push(finding),
                Item::End(ledger) => end = Some(ledger),
            }
        }
        let outcome = Self { findings, stages, ledger: end.expect("a ledger") };
        outcome.check();
        outcome
    }

    /// What holds of each ledger, whatever was found.
    fn check(&self) {
        for topic in &self.ledger.topics {
            let known = topic.published + topic.pending + topic.parked + topic.expired + topic.missing;
            assert_eq!(known, topic.in_store, "{topic:?}");
        }
        for group in &self.ledger.groups {
            assert_eq!(group.handled + group.pending, group.records, "{group:?}");
        }
        for count in &self.ledger.findings {
            let sent = self.findings.iter().filter(|finding| finding.kind == count.kind).count();
            assert_eq!(count.sent, i64::try_from(sent).unwrap(), "{count:?}");
            assert!(count.count >= count.sent, "{count:?}");
        }
        let grave = self.ledger.findings.iter().any(|count| count.severity() >= FindingSeverity::Violation);
        assert_eq!(self.ledger.sound, !grave, "{:?}", self.ledger.findings);
    }

    /// The kinds of what was found, each once, in order.
    pub(crate) fn kinds(&self) -> Vec<FindingKind> {
        self.ledger.findings.iter().map(|count| count.kind()).collect()
    }

    /// The one finding of a kind.
    pub(crate) fn one(&self, kind: FindingKind) -> &Finding {
        let found: Vec<&Finding> = self.findings.iter().filter(|finding| finding.kind() == kind).collect();
        assert_eq!(found.len(), 1, "{kind:?} among {:#?}", self.findings);
        found[0]
    }

    pub(crate) fn logs(&self) -> &LogLedger {
        self.ledger.logs.as_ref().unwrap()
    }

    pub(crate) fn topic(&self, name: &str) -> &TopicLedger {
        self.ledger.topics.iter().find(|topic| topic.topic == name).unwrap()
    }

    pub(crate) fn group(&self, name: &str) -> &GroupLedger {
        self.ledger.groups.iter().find(|group| group.group == name).unwrap()
    }

    /// Nothing was found, and nothing is on its way.
    pub(crate) fn is_clean(&self) {
        assert!(self.ledger.findings.is_empty(), "{:#?}", self.findings);
        assert!(self.ledger.sound && self.ledger.settled, "{:#?}", self.ledger);
    }
}
