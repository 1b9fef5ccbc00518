//! Clocks of GPUs, NPUs and memory controllers: `class/devfreq/*`. Devices are found by name, never
//! by number: numbers move between boots and kernels.

use super::clock::{ClockNodes, FrequencyUnit};
use super::root::{Limits, SysfsRoot, parse_clocks};
use std::path::Path;

const CLASS: &str = "class/devfreq";

/// The one device that `select` names: exactly, by the end of its name, by the name of its device-tree
/// node, or by a part of its name, in this order. Two that fit equally well are an error.
pub(crate) fn find(root: &SysfsRoot, select: &str) -> Result<ClockNodes, String> {
    let names = root.list(CLASS);
    let node = |name: &String| root.read(Path::new(CLASS).join(name).join("device/of_node/name")).ok();
    let ranks: [&dyn Fn(&String) -> bool; 4] = [
        &|name| name == select,
        &|name| name.ends_with(select),
        &|name| node(name).is_some_and(|node| node == select),
        &|name| name.contains(select),
    ];
    for fits in ranks {
        let matching: Vec<&String> = names.iter().filter(|name| fits(name)).collect();
        match matching.as_slice() {
            [] => {}
            [one] => return Ok(nodes(root, one)),
            _ => {
                return Err(format!(
                    "{select:?} fits several devfreq devices, {}: name one",
                    list(&matching)
                ));
            }
        }
    }
    let class = root.path(CLASS);
    Err(if names.is_empty() {
        format!("no devfreq device under {}", class.display())
    } else {
        let there = list(&names.iter().collect::<Vec<_>>());
        format!("no devfreq device fits {select:?} under {}: there are {there}", class.display())
    })
}

/// Every device whose bounds are there.
pub(crate) fn all(root: &SysfsRoot) -> Vec<ClockNodes> {
    let devices = root.list(CLASS).into_iter();
    let usable = devices.filter(|entry| root.exists(Path::new(CLASS).join(entry).join("max_freq")));
    usable.map(|entry| nodes(root, &entry)).collect()
}

fn list(names: &[&String]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

fn nodes(root: &SysfsRoot, name: &str) -> ClockNodes {
    let directory = Path::new(CLASS).join(name);
    let table = root
        .read(directory.join("available_frequencies"))
        .map(|text| parse_clocks(&text, &Limits::HERTZ))
        .unwrap_or_default();
    ClockNodes {
        current: directory.join("cur_freq"),
        min: directory.join("min_freq"),
        max: directory.join("max_freq"),
        governor: directory.join("governor"),
        speed: None,
        directory,
        unit: FrequencyUnit::Hertz,
        table,
        range: None,
    }
}
