//! Figures: a median with its extremes, and the table.

/// Values of one kind, from several rounds.
pub struct Figure {
    values: Vec<f64>,
}

impl Figure {
    /// From what the rounds gave.
    pub fn new(mut values: Vec<f64>) -> Figure {
        assert!(!values.is_empty(), "no rounds");
        values.sort_by(f64::total_cmp);
        Figure { values }
    }

    /// Each value against the baseline of its own round: what disturbs the machine disturbs both.
    pub fn ratio(values: &[f64], baseline: &[f64]) -> Figure {
        Figure::new(
            values
                .iter()
                .zip(baseline)
                .map(|(value, base)| value / base)
                .collect(),
        )
    }

    fn median(&self) -> f64 {
        self.values[self.values.len() / 2]
    }
}

/// Prints the heading of the table.
pub fn heading() {
    println!(
        "\n{:<58} {:>10} {:>10} {:>10}   {:<8} target",
        "figure", "median", "min", "max", "unit"
    );
}

/// Prints one line; an empty target means that the line is a baseline, or only informs.
pub fn line(name: &str, figure: &Figure, unit: &str, target: &str) {
    let (first, last) = (figure.values[0], figure.values[figure.values.len() - 1]);
    println!(
        "{name:<58} {:>10} {:>10} {:>10}   {unit:<8} {target}",
        number(figure.median()),
        number(first),
        number(last)
    );
}

fn number(value: f64) -> String {
    match value {
        value if value.fract() == 0.0 || value >= 1000.0 => format!("{value:.0}"),
        value if value >= 100.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}
