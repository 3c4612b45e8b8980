//! Landlock: the second lock on the file system, and the only one where there are no mount namespaces.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};

/// The newest version whose rights are asked for; what an older kernel lacks is left out.
const NEWEST: ABI = ABI::V6;

/// What a script may do where.
pub(super) struct Rules {
    /// May be read and run.
    pub(super) readable: Vec<PathBuf>,
    /// May be changed, too.
    pub(super) writable: Vec<PathBuf>,
    /// Whether TCP is forbidden.
    pub(super) no_tcp: bool,
}

/// Makes the rules ready to be applied. What does not exist is left out.
pub(super) fn ruleset(rules: &Rules) -> Result<RulesetCreated, RulesetError> {
    let all = AccessFs::from_all(NEWEST);
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock;
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?;
    if rules.no_tcp {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let changing = all & !devices & !AccessFs::IoctlDev;
    ruleset
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(&rules.readable, AccessFs::from_read(NEWEST)))?
        .add_rules(path_beneath_rules(&rules.writable, changing))
}

/// The devices that every script may write to.
pub(super) fn devices() -> impl Iterator<Item = PathBuf> {
    ["null", "zero", "full", "random", "urandom"].iter().map(|name| Path::new("/dev").join(name))
}
