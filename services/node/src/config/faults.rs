//! Faults on purpose: `[[faults.rules]]`.

use runmesh_bus::{FaultKind, FaultRule, Faults};
use runmesh_events::Catalog;
use serde::{Deserialize, Serialize};

/// Handlers that fail as they are told to, for tests of what becomes of the failures. Off by default; `serve` refuses them
/// without `--allow-faults`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FaultsConfig {
    /// The first rule that fits a try decides on it.
    pub rules: Vec<FaultSettings>,
}

/// Which tries fail, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSettings {
    /// The consumer group. Empty: all groups.
    #[serde(default)]
    pub group: String,
    /// The event type, by its topic's name. Empty: all types.
    #[serde(default)]
    pub event_type: String,
    /// Which part of the tries fails: 0 to 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// `transient`, `permanent`, `poison` or `panic`.
    pub kind: FaultKindSetting,
    /// The error's words.
    #[serde(default = "text")]
    pub text: String,
    /// How many tries fail at most. 0: no limit.
    #[serde(default)]
    pub times: u64,
}

/// How a handler fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKindSetting {
    /// As if the same may succeed later.
    Transient,
    /// As if the same fails each time.
    Permanent,
    /// As if the record were broken.
    Poison,
    /// By a panic.
    Panic,
}

fn always() -> f64 {
    1.0
}

fn text() -> String {
    "a fault on purpose".to_owned()
}

impl FaultsConfig {
    /// What is wrong with them, if something is.
    pub(super) fn problem(&self) -> Option<String> {
        self.rules.iter().enumerate().find_map(|(number, rule)| {
            let place = format!("rule {}", number + 1);
            if !(0.0..=1.0).contains(&rule.probability) {
                return Some(format!("{place}: probability is not from 0 to 1"));
            }
            let unknown = !rule.event_type.is_empty() && Catalog::get().event_type(&rule.event_type).is_err();
            unknown.then(|| format!("{place}: event_type {:?} is not the topic of an event type", rule.event_type))
        })
    }

    /// The faults.
    pub(crate) fn build(&self) -> Faults {
        let rule = |rule: &FaultSettings| FaultRule {
            group: rule.group.clone(),
            event_type: Catalog::get().event_type(&rule.event_type).ok(),
            probability: rule.probability,
            kind: match rule.kind {
                FaultKindSetting::Transient => FaultKind::Transient,
                FaultKindSetting::Permanent => FaultKind::Permanent,
                FaultKindSetting::Poison => FaultKind::Poison,
                FaultKindSetting::Panic => FaultKind::Panic,
            },
            text: rule.text.clone(),
            times: rule.times,
        };
        Faults::new(self.rules.iter().map(rule).collect())
    }
}
