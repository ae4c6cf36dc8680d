//! Bugs that the simulation plants, to see that it would find them. The product has none of them.

/// What can be wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The primary takes a push whatever it was computed from.
    IgnoreTheBase,
    /// A replica enters a batch over content that is newer than the batch was made for.
    ApplyOverNewerContent,
    /// A replica does not remember what it is about to enter. As the next ones planted outside the
    /// engine.
    #[cfg(test)]
    ForgetTheIntent,
    /// A replica records a position before the content is published.
    #[cfg(test)]
    RecordBeforePublish,
    /// A replica does not remember which base a merge has that it is about to enter.
    #[cfg(test)]
    ForgetTheNewBase,
    /// A replica asks for the position where it does not know what became of a push.
    #[cfg(test)]
    ResolveByAsking,
}

/// Whether a bug is planted.
#[cfg(not(test))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}

#[cfg(test)]
pub(crate) use crate::simulation::is_planted as is;
