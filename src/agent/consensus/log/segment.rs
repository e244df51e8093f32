//! Segment files: creating them filled with zeros, naming, listing and reading them.
//!
//! A segment has its full length from the start, so that an append changes no file metadata and one
//! fdatasync makes it durable. What the frames mean is not known here.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use super::record::{ALIGNMENT, Frame, frame_at};
use crate::hint::WithHint as _;
use crate::host::disk::{Disk, DiskFile};
use crate::host::files::MODE_PRIVATE;

/// First bytes of every segment.
const MAGIC: [u8; 8] = *b"CDRAFTLG";
/// Layout of segment, frame and record. A reader refuses any other.
const FORMAT_VERSION: u32 = 1;
/// magic 8, version 4, zero 4, sequence 8, salt 8, zero 28, checksum 4.
pub(super) const HEADER_BYTES: usize = 64;
const EXTENSION: &str = "log";
const EXTENSION_UNFINISHED: &str = "new";
/// Zeros are written in pieces of this many bytes.
const ZEROS_BYTES: usize = 1 << 20;
/// What a disk damages at once, in bytes. A seal begins at a multiple of it, so that it does not share the fate of the
/// frame before it.
pub(super) const SECTOR_BYTES: usize = 512;

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) path: PathBuf,
    /// 1, 2, 3… without a gap.
    pub(super) sequence: u64,
    /// Seeds the checksums.
    pub(super) salt: u64,
    /// Length of the file.
    pub(super) capacity: u64,
}

/// The file name of a segment.
pub(super) fn path_of(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(format!("{sequence:020}.{EXTENSION}"))
}

/// Creates a segment of `capacity` bytes under a temporary name, fills it, and gives it its name.
///
/// # Errors
/// As the disk says (above all: no space left); then nothing of it remains.
pub(super) fn create(disk: &dyn Disk, folder: &Path, sequence: u64, capacity: u64) -> io::Result<Segment> {
    let path = path_of(folder, sequence);
    let unfinished = path.with_extension(EXTENSION_UNFINISHED);
    let created = fill(disk, &unfinished, sequence, capacity)
        .and_then(|made| disk.rename(&unfinished, &path).map(|()| made))
        .and_then(|made| disk.sync_folder(folder).map(|()| made));
    match created {
        Ok((file, salt)) => Ok(Segment { file, path, sequence, salt, capacity }),
        Err(error) => {
            disk.remove(&unfinished)?;
            Err(error)
        }
    }
}

fn fill(disk: &dyn Disk, path: &Path, sequence: u64, capacity: u64) -> io::Result<(Box<dyn DiskFile>, u64)> {
    let file = disk.create(path, MODE_PRIVATE)?;
    let salt = disk.random();
    let zeros = vec![0; ZEROS_BYTES.min(usize::try_from(capacity).unwrap_or(ZEROS_BYTES))];
    let mut at = 0;
    while at < capacity {
        let piece = zeros.len().min(usize::try_from(capacity - at).unwrap_or(usize::MAX));
        file.write_at(&zeros[..piece], at)?;
        at += piece as u64;
    }
    file.write_at(&header(sequence, salt), 0)?;
    file.sync_all()?;
    Ok((file, salt))
}

fn header(sequence: u64, salt: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&sequence.to_le_bytes());
    header[24..32].copy_from_slice(&salt.to_le_bytes());
    let checksum = crc32fast::hash(&header[..60]);
    header[60..64].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// The sequence numbers of the segments in `folder`, ascending; removes unfinished ones.
///
/// # Errors
/// When a segment between two others is missing, or a file has a strange name.
pub(super) fn list(disk: &dyn Disk, folder: &Path) -> anyhow::Result<Vec<u64>> {
    let mut sequences = Vec::new();
    for path in disk.list(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(EXTENSION_UNFINISHED) => {
                disk.remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
            Some(EXTENSION) => sequences.push(
                path.file_stem()
                    .and_then(|stem| stem.to_str())
                    .and_then(|stem| stem.parse().ok())
                    .with_context(|| format!("{} is not a log segment", path.display()))?,
            ),
            _ => bail!("{} does not belong into the log folder", path.display()),
        }
    }
    sequences.sort_unstable();
    for pair in sequences.windows(2) {
        ensure!(pair[0] + 1 == pair[1], "log segment {} is missing", path_of(folder, pair[0] + 1).display());
    }
    Ok(sequences)
}

/// Opens a segment and reads all of it.
///
/// # Errors
/// When it is no segment, of another version, or its header is damaged.
pub(super) fn open(disk: &dyn Disk, folder: &Path, sequence: u64) -> anyhow::Result<(Segment, Vec<u8>)> {
    let path = path_of(folder, sequence);
    let file = disk.open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let bytes = disk.read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let shown = path.display();
    ensure!(bytes.len() >= HEADER_BYTES, "{shown} is damaged at offset 0: the header is cut off");
    ensure!(bytes[0..8] == MAGIC, "{shown} is damaged at offset 0: this is not a log segment");
    let number = |from: usize| u64::from_le_bytes(std::array::from_fn(|at| bytes[from + at]));
    let version = u32::from_le_bytes(std::array::from_fn(|at| bytes[8 + at]));
    let checked = crc32fast::hash(&bytes[..60]).to_le_bytes() == bytes[60..HEADER_BYTES];
    if checked && version != FORMAT_VERSION {
        return Err(anyhow::anyhow!("{shown} has log format {version}; this program reads {FORMAT_VERSION}"))
            .hint(crate::host::files::ADVICE_NEWER);
    }
    let salt = number(24);
    ensure!(
        bytes[..HEADER_BYTES] == header(sequence, salt),
        "{shown} is damaged at offset 8: the header does not match its checksum or its name"
    );
    let capacity = bytes.len() as u64;
    Ok((Segment { file, path, sequence, salt, capacity }, bytes))
}

/// The whole frames at the start of a segment, and what follows them.
pub(super) struct Scan<'a> {
    /// Each with where it begins.
    pub(super) frames: Vec<(usize, Frame<'a>)>,
    /// Where the next frame belongs.
    pub(super) end: usize,
    /// Bytes behind `end` that are not zero: a frame that was being written when the machine stopped.
    pub(super) torn: bool,
    /// A whole frame behind a broken one: its offset. That is damage.
    pub(super) whole_behind: Option<usize>,
}

/// Finds the frames in the bytes of a segment; `before` is the ordinal of the last frame in earlier ones.
pub(super) fn scan(bytes: &[u8], salt: u64, before: Option<u64>) -> Scan<'_> {
    let mut frames: Vec<(usize, Frame<'_>)> = Vec::new();
    let mut end = HEADER_BYTES;
    while let Some((at, frame)) = next_frame(bytes, salt, end, frames.last().map(|(_, last)| last.ordinal)) {
        end = at + frame.span();
        frames.push((at, frame));
    }
    let rest = bytes.get(end..).unwrap_or_default();
    let torn = rest.iter().any(|byte| *byte != 0);
    let last = frames.last().map(|(_, frame)| frame.ordinal).or(before);
    // A copy of an earlier frame, in a value of the torn one, is none.
    let later = |at: &usize| frame_at(&bytes[*at..], salt).is_some_and(|frame| Some(frame.ordinal) > last);
    let whole_behind = torn.then(|| (end + ALIGNMENT..bytes.len()).step_by(ALIGNMENT).find(later)).flatten();
    Scan { frames, end, torn, whole_behind }
}

/// The frame at `end`, or a seal: the frame behind zeros up to the next sector, if it follows the last.
fn next_frame(bytes: &[u8], salt: u64, end: usize, last: Option<u64>) -> Option<(usize, Frame<'_>)> {
    if let Some(frame) = frame_at(bytes.get(end..)?, salt) {
        return Some((end, frame));
    }
    let sector = end.next_multiple_of(SECTOR_BYTES);
    let seal = frame_at(bytes.get(sector..)?, salt)?;
    let empty = bytes[end..sector].iter().all(|byte| *byte == 0);
    (empty && last.is_some_and(|last| last + 1 == seal.ordinal)).then_some((sector, seal))
}

impl Segment {
    /// Writes zeros from `end` on, over the remains of a torn frame.
    ///
    /// # Errors
    /// As the disk says.
    pub(super) fn cut(&self, end: u64) -> io::Result<()> {
        let length = usize::try_from(self.capacity.saturating_sub(end)).map_err(io::Error::other)?;
        for start in (0..length).step_by(ZEROS_BYTES) {
            let piece = ZEROS_BYTES.min(length - start);
            self.file.write_at(&vec![0; piece], end + start as u64)?;
        }
        self.file.sync_data()
    }
}
