//! Who does something, and why.

use clap::Args;

/// Who does something, and why. It is recorded.
#[derive(Debug, Clone, Args)]
pub struct WhyArgs {
    /// Why, for those who read the record later
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reason: String,
    /// Who does it; $USER by default
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
}
