//! Cuts a trace everywhere, and has each image checked.
use crate::dice::Dice;
use crate::image::{Crash, Disk, Image, Loss, Step};
use crate::trace;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One moment of power loss.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The steps before it happened.
    pub index: usize,
    /// The newest state that was acknowledged before it, and the newest that was begun.
    pub acknowledged: usize,
    pub begun: usize,
}

/// What an image did to a host.
#[derive(Debug)]
pub enum Fault {
    /// Sound, but an acknowledged state is gone.
    Lost(String),
    /// Corrupt, or a state that never was.
    Broken(String),
}

impl From<String> for Fault {
    fn from(text: String) -> Fault {
        Fault::Broken(text)
    }
}

/// What a campaign found.
pub struct Report {
    pub lost: usize,
    pub broken: usize,
    /// The first few, with where they come from.
    failures: Vec<(String, Image)>,
    name: String,
}

impl Report {
    /// Fails the test when something was found; the images are kept for whoever looks for the cause.
    pub fn expect_none(mut self) {
        if self.lost + self.broken > 0 {
            self.fail();
        }
    }

    /// Fails the test when something was worse than lost.
    pub fn expect_sound(mut self) {
        if self.broken > 0 {
            self.failures.retain(|(text, _)| text.contains(" broken: "));
            self.fail();
        }
    }

    fn fail(&mut self) -> ! {
        self.failures.truncate(5);
        let mut text = format!(
            "{}: {} lost, {} broken\n",
            self.name, self.lost, self.broken
        );
        for (number, (failure, image)) in self.failures.iter().enumerate() {
            let name = format!("power-failures/{}-{number}", self.name.replace(' ', "-"));
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            let _ = std::fs::remove_dir_all(&dir);
            trace::install(image, &dir);
            text += &format!("{failure}\n    image kept in {}\n", dir.display());
        }
        panic!("{text}");
    }
}

/// Draws `images` images of the trace and checks those that differ, until `enough` of them have failed: a failure may take
/// a whole time-out, and a test need not wait for a thousand. `check` gets the cut and the directory of the image.
pub fn run<C>(name: &str, steps: &[Step], images: usize, enough: usize, check: C) -> Report
where
    C: Fn(&Cut, &Path) -> Result<(), Fault> + Sync,
{
    let seed = number("POWER_SEED").unwrap_or(1);
    let images = images * number("POWER_IMAGES_TIMES").unwrap_or(1) as usize;
    let mut dice = Dice::new(seed);
    let mut cuts = cuts(steps, &mut dice);
    // Three images are the least that says something about a cut.
    while cuts.len() * 3 > images.max(3) {
        cuts.remove(dice.below(cuts.len()));
    }
    let jobs: Vec<(Cut, Crash)> = cuts
        .iter()
        .flat_map(|cut| crashes(images / cuts.len()).map(|crash| (cut.clone(), crash)))
        .collect();
    let next = AtomicUsize::new(0);
    let seen = Mutex::new(HashSet::new());
    let report = Mutex::new(Report {
        lost: 0,
        broken: 0,
        failures: Vec::new(),
        name: name.into(),
    });
    let space = Space::new();
    std::thread::scope(|scope| {
        for worker in 0..workers() {
            let (next, seen, report, jobs, check) = (&next, &seen, &report, &jobs, &check);
            let dir = space.0.join(worker.to_string());
            scope.spawn(move || {
                let mut disk = Disk::default();
                let mut at = 0;
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    let Some((cut, crash)) = jobs.get(job) else {
                        break;
                    };
                    // Jobs come in the order of the trace, so each worker's disk only moves forward.
                    while at < cut.index {
                        disk.apply(&steps[at]).unwrap();
                        at += 1;
                    }
                    let image = disk.image(*crash, &mut Dice::new(seed ^ ((job as u64) << 20)));
                    if !seen.lock().unwrap().insert(fingerprint(&image, cut)) {
                        continue;
                    }
                    let _ = std::fs::remove_dir_all(&dir);
                    trace::install(&image, &dir);
                    // A panic would hide which image it was.
                    let checked = catch_unwind(AssertUnwindSafe(|| check(cut, &dir)));
                    let Err(fault) =
                        checked.unwrap_or(Err(Fault::Broken("the check panicked".into())))
                    else {
                        continue;
                    };
                    let mut report = report.lock().unwrap();
                    let found = report.lost + report.broken + 1;
                    let (count, text) = match fault {
                        Fault::Lost(text) => (&mut report.lost, format!("lost: {text}")),
                        Fault::Broken(text) => (&mut report.broken, format!("broken: {text}")),
                    };
                    *count += 1;
                    if found >= enough {
                        next.store(jobs.len(), Ordering::Relaxed);
                    }
                    let few = *count <= 5;
                    if few {
                        let done = trace::describe(&steps[..cut.index]);
                        report
                            .failures
                            .push((format!("{cut:?} {crash:?} {text}\n    {done}"), image));
                    }
                }
            });
        }
    });
    let report = report.into_inner().unwrap();
    // Straight to the terminal: the number of images is a result, also of a test that passes.
    let _ = writeln!(
        std::io::stdout(),
        "power: {name}: {} steps, {} cut points, {} images: {} lost, {} broken (seed {seed})",
        steps.len(),
        cuts.len(),
        seen.into_inner().unwrap().len(),
        report.lost,
        report.broken,
    );
    report
}

/// The trace on a disk that ignores some syncs: told by the name of the file and the step before.
/// A test that does not notice this would not notice a host that forgets them.
pub fn without_syncs(steps: &[Step], ignored: impl Fn(&str, &Step) -> bool) -> Vec<Step> {
    let mut names = HashMap::new();
    let mut before = &Step::SyncDirectory;
    let mut all = Vec::with_capacity(steps.len());
    for step in steps {
        if let Step::Create { inode, name } | Step::Link { inode, name } = step {
            names.insert(inode, name);
        }
        all.push(match step {
            // A mark in its place: the number of a step stays what it was.
            Step::Sync { inode } if names.get(inode).is_some_and(|n| ignored(n, before)) => {
                Step::Mark("ignored sync".into())
            }
            _ => step.clone(),
        });
        before = step;
    }
    all
}

/// Whether a name is that of a database's log, plain or encrypted, other than a state store's.
pub fn is_log(name: &str) -> bool {
    (name.ends_with("-wal") || name.ends_with("-swal")) && !name.contains("-replica")
}

/// Before and after each sync and each change of a name, and by chance between them.
fn cuts(steps: &[Step], dice: &mut Dice) -> Vec<Cut> {
    let mut indices = BTreeSet::from([steps.len()]);
    for (i, step) in steps.iter().enumerate() {
        match step {
            Step::Write { .. }
            | Step::Resize { .. }
            | Step::Grow { .. }
            | Step::Send
            | Step::Mark(_) => {}
            _ => indices.extend([i, i + 1]),
        }
    }
    for _ in 0..indices.len() / 3 {
        indices.insert(dice.below(steps.len() + 1));
    }
    let newest = |index: usize, word: &str| {
        let marks = steps[..index].iter().filter_map(|step| match step {
            Step::Mark(text) => text.strip_prefix(word)?.trim().parse().ok(),
            _ => None,
        });
        marks.max().unwrap_or(0)
    };
    indices
        .into_iter()
        .map(|index| Cut {
            index,
            acknowledged: newest(index, "ack "),
            begun: newest(index, "start "),
        })
        .collect()
}

/// The most telling ones first, for there may be room for a few only.
fn crashes(count: usize) -> impl Iterator<Item = Crash> {
    use Crash::*;
    let first = [
        Bare,
        Any,
        Every(Loss::Early),
        Whole,
        Any,
        Names,
        Every(Loss::Late),
        Content,
        Every(Loss::Scattered),
    ];
    let more = [Any, Every(Loss::Early), Any, Every(Loss::Scattered)];
    first
        .into_iter()
        .chain(more.into_iter().cycle())
        .take(count)
}

fn fingerprint(image: &Image, cut: &Cut) -> u64 {
    let mut hasher = DefaultHasher::new();
    (image, cut.acknowledged, cut.begun).hash(&mut hasher);
    hasher.finish()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().expect(variable))
}

pub fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(4))
}

/// A directory that goes when its owner goes; in memory where there is such a place, because the
/// hosts that run on the images sync a lot and nothing of it need last.
pub struct Space(pub PathBuf);

impl Space {
    pub fn new() -> Space {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() {
            memory.into()
        } else {
            std::env::temp_dir()
        };
        let name = format!(
            "power-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        std::fs::create_dir_all(base.join(&name)).unwrap();
        Space(base.join(name))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
