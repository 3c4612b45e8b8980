//! The comments of the `.proto` files.

use std::collections::HashMap;

use prost_reflect::{DescriptorPool, FileDescriptor};

/// The leading comments, by file and by the path of what they describe.
pub(super) struct Comments(HashMap<(String, Vec<i32>), String>);

impl Comments {
    /// Reads the comments of all files.
    pub(super) fn read(pool: &DescriptorPool) -> Self {
        let mut comments = HashMap::new();
        for file in pool.file_descriptor_protos() {
            let Some(info) = &file.source_code_info else { continue };
            for location in &info.location {
                if let Some(comment) = &location.leading_comments {
                    let lines: Vec<&str> = comment.lines().map(str::trim).collect();
                    comments.insert((file.name().to_owned(), location.path.clone()), lines.join(" ").trim().to_owned());
                }
            }
        }
        Self(comments)
    }

    /// The comment at a path. Empty: there is none.
    pub(super) fn get(&self, file: &FileDescriptor, path: &[i32]) -> &str {
        self.0.get(&(file.name().to_owned(), path.to_vec())).map(String::as_str).unwrap_or_default()
    }
}
