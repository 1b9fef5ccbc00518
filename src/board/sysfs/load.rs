//! How busy a processor is, where its driver says so. Four dialects: NVIDIA's `load` in parts per thousand,
//! Rockchip's percentage at a clock (`37@600000000Hz`), the percentages of each core that its NPU driver prints, and
//! plain percent (`gpu_busy_percent`, `utilisation`).

use super::gate::Gate;
use super::root::{Attribute, Page, SysfsError, SysfsRoot, garbled};
use crate::units::Ppm;
use std::path::Path;

/// Where it is looked for below a devfreq device, and what a bare number means there in ppm.
const NODES: [(&str, u32); 4] = [
    ("load", 1_000),
    ("device/load", 1_000),
    ("device/utilisation", 10_000),
    ("device/gpu_busy_percent", 10_000),
];
/// All of it, in ppm.
const ALL: u32 = 1_000_000;

/// Reads one processor's load.
#[derive(Debug)]
pub(crate) struct LoadSensor {
    gate: Gate,
    node: Attribute,
    scale: u32,
}

impl LoadSensor {
    /// Of the devfreq device in `directory`.
    pub(crate) fn find(root: &SysfsRoot, directory: &Path) -> Option<Self> {
        let (node, scale) = NODES.into_iter().find(|(node, _)| root.path(directory.join(node)).is_file())?;
        let gate = Gate::find(root, directory.join("device"));
        Some(Self { gate, node: root.attribute(directory.join(node)), scale })
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        self.node.path()
    }

    /// The share of time in which it was busy, over the driver's own window.
    pub(crate) fn sample(&mut self, buffer: &mut Page) -> Result<Ppm, SysfsError> {
        self.gate.awake(buffer)?;
        let text = self.node.text(buffer)?;
        parse(text, self.scale).ok_or_else(|| {
            garbled(self.node.path(), text, "a load: per mille, percent, or such as \"37@600000000Hz\"")
        })
    }
}

/// A load in any of the dialects; a bare number counts in `scale` ppm.
fn parse(text: &str, scale: u32) -> Option<Ppm> {
    let within = |number: &str, scale: u32| {
        let number: u32 = number.trim().parse().ok()?;
        number.checked_mul(scale).filter(|ppm| *ppm <= ALL).map(Ppm)
    };
    if let Some((percent, clock)) = text.split_once('@') {
        return clock.ends_with("Hz").then(|| within(percent, 10_000)).flatten();
    }
    if text.contains('%') {
        // The busiest core counts.
        let cores = text.split('%').filter(|part| part.ends_with(|c: char| c.is_ascii_digit()));
        let number = |part: &str| part.rsplit(|c: char| !c.is_ascii_digit()).next().map(str::to_owned);
        let shares: Option<Vec<Ppm>> = cores.map(|part| within(&number(part)?, 10_000)).collect();
        return shares?.into_iter().max();
    }
    within(text, scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_is_understood_and_nonsense_is_not() {
        for (text, scale, ppm) in [
            ("120", 1_000, Some(120_000)),
            ("1000", 1_000, Some(1_000_000)),
            ("1001", 1_000, None),
            ("99@1000000000Hz", 1_000, Some(990_000)),
            ("0@300000000Hz", 1_000, Some(0)),
            ("101@300000000Hz", 1_000, None),
            ("99@fast", 1_000, None),
            ("NPU load:  Core0: 12%, Core1:  7%, Core2: 31%,", 1_000, Some(310_000)),
            ("NPU load:  5%", 1_000, Some(50_000)),
            ("NPU load:  %", 1_000, None),
            ("42", 10_000, Some(420_000)),
            ("-1", 1_000, None),
            ("", 1_000, None),
            ("hot", 1_000, None),
            ("99999999999", 1_000, None),
        ] {
            assert_eq!(parse(text, scale), ppm.map(Ppm), "{text:?}");
        }
    }
}
