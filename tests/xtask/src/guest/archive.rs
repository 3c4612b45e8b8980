//! Archives as the kernel takes its first files from: cpio, in its "new" format.

/// An archive that is being made.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: usize,
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

impl Archive {
    /// Adds a folder. Those above it have to be there.
    pub(super) fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER, &[]);
    }

    /// Adds a file that may be run.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, content);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (mode, length, name) = (mode as usize, content.len(), path.len() + 1);
        // Number, mode, owner, group, links, time, size, four device numbers, length of the name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name, 0];
        let header: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        self.bytes.extend_from_slice(format!("070701{header}{path}\0").as_bytes());
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_contents_begin_at_multiples_of_four() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.file("bin/x", b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let find = |text: &[u8]| bytes.windows(text.len()).position(|window| window == text);
        let content = find(b"hello").unwrap();
        assert_eq!(content % 4, 0);
        // A header has 110 characters.
        let header = find(b"bin/x\0").unwrap() - 110;
        assert_eq!((header % 4, &bytes[header..header + 6]), (0, &b"070701"[..]));
        assert_eq!(&bytes[header + 14..header + 22], b"000081ed");
        assert_eq!(&bytes[header + 54..header + 62], b"00000005");
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
    }
}
