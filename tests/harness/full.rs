//! How much the tests of writing do: a part by default, all of it where `REPLICA_FULL` is set.

/// Whether everything is to be done.
pub fn is_full() -> bool {
    std::env::var_os("REPLICA_FULL").is_some()
}

/// `part`, or `whole` in the full run; the variable `name` says something else.
pub fn amount(name: &str, part: u64, whole: u64) -> u64 {
    let amount = match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) if is_full() => whole,
        Err(_) => part,
    };
    println!("{name}={amount}");
    amount
}
