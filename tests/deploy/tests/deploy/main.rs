//! The files of `deploy/`: the chart, the image, the Compose file.

mod compose;
mod image;
mod objects;
mod policies;
mod security;
mod selectors;
mod settings;
mod values;
