//! What happened: a number that is the same for the same run, and, where it is asked for, words.

/// The trace of a run.
#[derive(Default)]
pub(super) struct Trace {
    hash: u64,
    lines: Vec<String>,
}

impl Trace {
    /// A step, for the number alone.
    pub(super) fn step(&mut self, actor: usize, what: &'static str, now: u64) {
        self.add(actor as u64);
        self.add(now);
        what.bytes().for_each(|byte| self.add(byte.into()));
    }

    fn add(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// A line, for whoever reads it.
    pub(super) fn note(
        &mut self,
        traced: bool,
        now: u64,
        actor: &str,
        line: impl FnOnce() -> String,
    ) {
        self.add(now);
        if traced {
            let (seconds, rest) = (now / 1_000_000, now % 1_000_000);
            self.lines
                .push(format!("{seconds:>4}.{rest:06}  {actor:<12} {}", line()));
        }
    }

    /// The number.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// The words.
    pub(super) fn lines(&self) -> &[String] {
        &self.lines
    }
}
