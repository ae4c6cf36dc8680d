//! The recording of what a host did to its files.
use crate::image::{Disk, Image, Step};
use crate::{dice::Dice, image::Crash};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

const HEAD: usize = 32;
const MARK: u32 = 10;

/// A directory under recording, and the trace of it so far.
pub struct Recorder {
    dir: PathBuf,
    trace: PathBuf,
    file: File,
}

impl Recorder {
    /// Records an empty directory, for a trace starts from nothing.
    pub fn new(dir: &Path, trace: &Path) -> Recorder {
        fs::create_dir_all(dir).unwrap();
        File::create(trace).unwrap();
        let file = OpenOptions::new().append(true).open(trace).unwrap();
        Recorder {
            dir: fs::canonicalize(dir).unwrap(),
            trace: trace.into(),
            file,
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a command record what it does. Several processes may record into one trace.
    pub fn watch(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", library())
            .env("RECORD_DIR", &self.dir)
            .env("RECORD_TRACE", &self.trace);
    }

    /// Puts a word between what was done so far and what comes.
    pub fn mark(&mut self, text: &str) {
        let mut record = Vec::new();
        [MARK, 0, 0, text.len() as u32]
            .iter()
            .for_each(|n| record.extend(n.to_ne_bytes()));
        record.extend([0; 16]);
        record.extend(text.as_bytes());
        // The processes hold this lock around a call and its record.
        unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_EX) };
        self.file.write_all(&record).unwrap();
        unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_UN) };
    }

    /// The steps, after a proof that they are the whole story: replayed to the end they give the
    /// files of the directory. Call it when the hosts have ended.
    pub fn finish(self) -> Vec<Step> {
        let steps = parse(&fs::read(&self.trace).unwrap());
        let mut disk = Disk::default();
        for step in &steps {
            disk.apply(step).unwrap();
        }
        let replayed = disk.image(Crash::Whole, &mut Dice::new(0));
        let real = snapshot(&self.dir);
        let sizes = |i: &Image| {
            i.iter()
                .map(|(n, c)| format!("{n} {}", c.len()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            sizes(&replayed),
            sizes(&real),
            "the recorder missed something"
        );
        assert!(replayed == real, "the recorder missed a write");
        steps
    }
}

/// The files of a directory that outlive its processes.
pub fn snapshot(dir: &Path) -> Image {
    let mut read: BTreeMap<u64, Arc<Vec<u8>>> = BTreeMap::new();
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    files
        .map(|f| (f.file_name().into_string().unwrap(), f))
        .filter(|(name, _)| !name.ends_with("-shm"))
        .map(|(name, f)| {
            let content = read.entry(f.ino());
            (
                name,
                content
                    .or_insert_with(|| Arc::new(fs::read(f.path()).unwrap()))
                    .clone(),
            )
        })
        .collect()
}

/// Writes an image as the content of a new directory.
pub fn install(image: &Image, dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let mut written: Vec<(&String, &Arc<Vec<u8>>)> = Vec::new();
    for (name, content) in image {
        match written
            .iter()
            .find(|(_, other)| Arc::ptr_eq(other, content))
        {
            Some((first, _)) => fs::hard_link(dir.join(first), dir.join(name)).unwrap(),
            None => fs::write(dir.join(name), content.as_slice()).unwrap(),
        }
        written.push((name, content));
    }
}

/// One line for each of the steps before a cut, newest last: what a report shows.
pub fn describe(steps: &[Step]) -> String {
    let mut names = BTreeMap::new();
    let mut lines = Vec::new();
    for step in steps {
        let name = |inode: &u64| names.get(inode).cloned().unwrap_or_default();
        lines.push(match step {
            Step::Create { inode, name } => {
                names.insert(*inode, name.clone());
                format!("create {name}")
            }
            Step::Write {
                inode,
                offset,
                data,
            } => format!("write {} {offset}+{}", name(inode), data.len()),
            Step::Resize { inode, size } => format!("resize {} {size}", name(inode)),
            Step::Grow { inode, size } => format!("grow {} {size}", name(inode)),
            Step::Sync { inode } => format!("sync {}", name(inode)),
            Step::SyncDirectory => "sync directory".into(),
            Step::Link { inode, name: new } => {
                let line = format!("link {} to {new}", name(inode));
                names.insert(*inode, new.clone());
                line
            }
            Step::Rename { name, to } => format!("rename {name} to {to}"),
            Step::Unlink { name } => format!("unlink {name}"),
            Step::Mark(text) => format!("-- {text}"),
            Step::Send => "send".into(),
        });
    }
    let first = lines.len().saturating_sub(25);
    lines[first..].join("\n    ")
}

fn parse(bytes: &[u8]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = bytes;
    while rest.len() >= HEAD {
        let short = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(rest[at..at + 8].try_into().unwrap());
        let (inode, offset) = (long(16), long(24));
        let lengths = [short(4) as usize, short(8) as usize, short(12) as usize];
        let end = HEAD + lengths.iter().sum::<usize>();
        if rest.len() < end {
            // The process was killed inside its last record.
            break;
        }
        let (name, more) = rest[HEAD..end].split_at(lengths[0]);
        let (other, data) = more.split_at(lengths[1]);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        steps.push(match short(0) {
            1 => Step::Create {
                inode,
                name: text(name),
            },
            2 => Step::Write {
                inode,
                offset,
                data: data.into(),
            },
            3 => Step::Resize {
                inode,
                size: offset,
            },
            4 => Step::Grow {
                inode,
                size: offset,
            },
            5 => Step::Sync { inode },
            6 => Step::SyncDirectory,
            7 => Step::Link {
                inode,
                name: text(name),
            },
            8 => Step::Rename {
                name: text(name),
                to: text(other),
            },
            9 => Step::Unlink { name: text(name) },
            MARK => Step::Mark(text(data)),
            11 => Step::Send,
            kind => panic!("record of kind {kind}"),
        });
        rest = &rest[end..];
    }
    steps
}

/// The recorder, built once per test process.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("power/recorder.c");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("recorder-{}.so", std::process::id()));
        let compiler = std::env::var("CC").unwrap_or("gcc".into());
        let status = Command::new(&compiler)
            .args([
                "-O1",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-U_FORTIFY_SOURCE",
                "-fPIC",
                "-shared",
                "-pthread",
                "-o",
            ])
            .args([&target, &source])
            .status();
        assert!(
            status.is_ok_and(|s| s.success()),
            "{compiler} could not build the recorder"
        );
        target
    })
}
