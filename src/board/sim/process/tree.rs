//! The sysfs tree of a simulated board: directories, attributes and links, laid out as a kernel does it
//! (`class/` holds links into `devices/`).

use super::attr::{Attr, BatteryNode, ClockNode, RailNode, max_energy_range};
use crate::board::sim::spec::{PlantDomain, PlantSpec};
use crate::board::spec::{DomainInterface, RailInterface};
use crate::core::catalog::{DomainId, RailId, ZoneId};
use crate::units::Kilohertz;
use std::collections::BTreeMap;

/// Index of a node; the root is 0.
pub(super) type NodeId = usize;

/// A node of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Directory(BTreeMap<String, NodeId>),
    Attribute(Attr),
    Link(String),
}

/// The tree; its shape is fixed once built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    pub(super) fn of(spec: &PlantSpec) -> Self {
        let mut tree = Self { nodes: vec![Node::Directory(BTreeMap::new())] };
        for (index, domain) in spec.domains.iter().enumerate() {
            let id = DomainId::at(index);
            match domain.interface {
                DomainInterface::Cpufreq => tree.policy(id, domain),
                DomainInterface::Devfreq => tree.devfreq(id, domain),
            }
        }
        tree.zones(spec);
        tree.hwmons(spec);
        tree.iios(spec);
        tree.powercaps(spec);
        tree.supplies(spec);
        if spec.pi_firmware {
            tree.add("devices/platform/soc/soc:firmware/get_throttled", Attr::PiThrottled);
        }
        if !spec.compatible.is_empty() {
            // Texts of a device tree end in NUL.
            let at = "firmware/devicetree/base";
            tree.add(&format!("{at}/model"), Attr::Text(format!("{} (simulated)\0", spec.board)));
            tree.add(&format!("{at}/compatible"), Attr::Text(format!("{}\0", spec.compatible[0])));
        }
        // Always there on a kernel, with or without entries.
        for class in ["devfreq", "hwmon", "power_supply", "powercap", "thermal"] {
            tree.directory(&format!("class/{class}"));
        }
        tree.directory("devices/system/cpu/cpufreq");
        let policies = spec.domains.iter().map(|domain| domain.cpus.as_str());
        let cpus: Vec<&str> = policies.flat_map(str::split_ascii_whitespace).collect();
        if !cpus.is_empty() {
            tree.fixed("devices/system/cpu/online", cpus.join(","));
        }
        tree
    }

    pub(super) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// All paths with their nodes, parents first.
    pub(super) fn walk(&self) -> Vec<(String, NodeId)> {
        let mut found = Vec::new();
        let mut pending = vec![(String::new(), 0)];
        while let Some((path, id)) = pending.pop() {
            if let Node::Directory(entries) = &self.nodes[id] {
                let below = |(name, id): (&String, &NodeId)| {
                    (if path.is_empty() { name.clone() } else { format!("{path}/{name}") }, *id)
                };
                pending.extend(entries.iter().rev().map(below));
            }
            if id != 0 {
                found.push((path, id));
            }
        }
        found
    }

    fn directory(&mut self, path: &str) -> NodeId {
        let mut at = 0;
        for name in path.split('/') {
            let next = self.nodes.len();
            let Node::Directory(entries) = &mut self.nodes[at] else { return at };
            at = *entries.entry(name.to_owned()).or_insert(next);
            if at == next {
                self.nodes.push(Node::Directory(BTreeMap::new()));
            }
        }
        at
    }

    fn put(&mut self, path: &str, node: Node) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.directory(parent);
        let id = self.nodes.len();
        if let Node::Directory(entries) = &mut self.nodes[parent] {
            entries.insert(name.to_owned(), id);
            self.nodes.push(node);
        }
    }

    fn add(&mut self, path: &str, attr: Attr) {
        self.put(path, Node::Attribute(attr));
    }

    fn fixed(&mut self, path: &str, text: impl Into<String>) {
        self.add(path, Attr::fixed(text));
    }

    /// A relative link at `path` to another path of the tree.
    fn link(&mut self, path: &str, target: &str) {
        let up = "../".repeat(path.matches('/').count());
        self.put(path, Node::Link(up + target));
    }

    fn policy(&mut self, id: DomainId, domain: &PlantDomain) {
        let at = format!("devices/system/cpu/cpufreq/policy{}", domain.device);
        let clocks = |list: &[Kilohertz]| {
            // The kernel leaves a blank behind the last one.
            list.iter().map(|clock| format!("{} ", clock.0)).collect::<String>()
        };
        let (low, high) = (domain.opps[0], domain.opps[domain.opps.len() - 1]);
        for (name, text) in [
            ("affected_cpus", domain.cpus.clone()),
            ("related_cpus", domain.cpus.clone()),
            ("cpuinfo_min_freq", low.0.to_string()),
            ("cpuinfo_max_freq", high.0.to_string()),
            ("cpuinfo_transition_latency", domain.settle.0.to_string()),
            ("scaling_available_frequencies", clocks(&domain.opps)),
            ("scaling_available_governors", domain.governors.join(" ") + " "),
            ("scaling_driver", "wattd-sim".to_owned()),
        ] {
            self.add(&format!("{at}/{name}"), Attr::Policy(id, text));
        }
        for (name, node, mode) in [
            ("cpuinfo_cur_freq", ClockNode::Current, 0o400),
            ("scaling_cur_freq", ClockNode::Current, 0o444),
            ("scaling_min_freq", ClockNode::Min, 0o644),
            ("scaling_max_freq", ClockNode::Max, 0o644),
            ("scaling_governor", ClockNode::Governor, 0o644),
            ("scaling_setspeed", ClockNode::SetSpeed, 0o644),
        ] {
            self.add(&format!("{at}/{name}"), Attr::Clock(id, node, mode));
        }
        for cpu in domain.cpus.split_ascii_whitespace() {
            self.link(&format!("devices/system/cpu/cpu{cpu}/cpufreq"), &at);
        }
    }

    fn devfreq(&mut self, id: DomainId, domain: &PlantDomain) {
        let device = &domain.device;
        let platform = format!("devices/platform/{device}");
        let at = format!("{platform}/devfreq/{device}");
        let node_name = device.split_once('.').map_or(device.as_str(), |(_, name)| name);
        self.fixed(&format!("{platform}/of_node/name"), node_name);
        // In Hz, separated by blanks without one behind the last.
        let clocks: Vec<String> =
            domain.opps.iter().map(|clock| (u64::from(clock.0) * 1000).to_string()).collect();
        self.fixed(&format!("{at}/available_frequencies"), clocks.join(" "));
        self.fixed(&format!("{at}/available_governors"), domain.governors.join(" "));
        self.fixed(&format!("{at}/name"), device.clone());
        for (name, node, mode) in [
            ("cur_freq", ClockNode::Current, 0o444),
            ("target_freq", ClockNode::Target, 0o444),
            ("min_freq", ClockNode::Min, 0o644),
            ("max_freq", ClockNode::Max, 0o644),
            ("governor", ClockNode::Governor, 0o644),
        ] {
            self.add(&format!("{at}/{name}"), Attr::Clock(id, node, mode));
        }
        self.add(&format!("{at}/userspace/set_freq"), Attr::Clock(id, ClockNode::SetSpeed, 0o644));
        self.link(&format!("{at}/device"), &platform);
        self.link(&format!("class/devfreq/{device}"), &at);
    }

    fn zones(&mut self, spec: &PlantSpec) {
        for (index, zone) in spec.zones.iter().enumerate() {
            let at = format!("devices/virtual/thermal/thermal_zone{index}");
            self.fixed(&format!("{at}/type"), zone.name.clone());
            self.add(&format!("{at}/temp"), Attr::Zone(ZoneId::at(index)));
            self.add(&format!("{at}/mode"), Attr::Fixed { text: "enabled".to_owned(), mode: 0o644 });
            let hysteresis = crate::units::MilliCelsius::from_celsius(spec.throttle_hysteresis_k);
            for (trip, kind, limit) in [(0, "passive", zone.passive), (1, "critical", zone.critical)] {
                self.fixed(&format!("{at}/trip_point_{trip}_type"), kind);
                self.fixed(&format!("{at}/trip_point_{trip}_temp"), limit.0.to_string());
                self.fixed(&format!("{at}/trip_point_{trip}_hyst"), hysteresis.0.to_string());
            }
            self.link(&format!("class/thermal/thermal_zone{index}"), &at);
        }
        if spec.fan.is_some() {
            let at = "devices/virtual/thermal/cooling_device0";
            self.fixed(&format!("{at}/type"), "pwm-fan");
            self.fixed(&format!("{at}/max_state"), "1");
            self.add(&format!("{at}/cur_state"), Attr::FanState);
            self.link("class/thermal/cooling_device0", at);
        }
    }

    /// An INA3221 has three channels, so rails are spread over as many chips as they need. The first
    /// hwmon is another one, as on a real board: chips are found by name, not by number.
    fn hwmons(&mut self, spec: &PlantSpec) {
        let at = "devices/virtual/thermal/thermal_zone0/hwmon0";
        if !spec.zones.is_empty() {
            self.fixed(&format!("{at}/name"), "simulated_die");
            self.add(&format!("{at}/temp1_input"), Attr::DieTemperature);
            self.link("class/hwmon/hwmon0", at);
        }
        let mut chips: BTreeMap<&str, Vec<(RailId, &str)>> = BTreeMap::new();
        for (index, sensor) in spec.sensors.iter().enumerate() {
            if sensor.interface == RailInterface::Hwmon {
                chips.entry(&sensor.chip).or_default().push((RailId::at(index), &sensor.name));
            }
        }
        let mut number = 1;
        for (chip, rails) in chips {
            for (device, channels) in rails.chunks(3).enumerate() {
                let at = format!("devices/platform/i2c-1/1-004{device}/hwmon/hwmon{number}");
                self.fixed(&format!("{at}/name"), chip);
                for (index, (rail, label)) in channels.iter().enumerate() {
                    self.channel(&at, chip, index + 1, *rail, label);
                }
                self.link(&format!("class/hwmon/hwmon{number}"), &at);
                number += 1;
            }
        }
    }

    fn channel(&mut self, at: &str, chip: &str, number: usize, rail: RailId, label: &str) {
        let mut add = |name: String, node| self.add(&format!("{at}/{name}"), Attr::Rail(rail, node));
        if chip == "ina3221" {
            add(format!("in{number}_input"), RailNode::Millivolts);
            add(format!("curr{number}_input"), RailNode::Milliamperes);
            add(format!("in{number}_enable"), RailNode::Enable);
            self.fixed(&format!("{at}/in{number}_label"), label);
        } else {
            add(format!("power{number}_input"), RailNode::Microwatts);
            self.fixed(&format!("{at}/power{number}_label"), label);
        }
    }

    /// As the INA3221 driver of JetPack 4 shows its rails: devices of three channels, counted from 0.
    fn iios(&mut self, spec: &PlantSpec) {
        let sensors = spec.sensors.iter().enumerate();
        let sensors: Vec<_> = sensors.filter(|(_, sensor)| sensor.interface == RailInterface::Iio).collect();
        for (device, rails) in sensors.chunks(3).enumerate() {
            let at = format!("devices/platform/i2c-6/6-004{device}/iio:device{device}");
            for (n, (index, sensor)) in rails.iter().enumerate() {
                self.fixed(&format!("{at}/name"), sensor.chip.clone());
                self.fixed(&format!("{at}/rail_name_{n}"), sensor.name.clone());
                let (rail, volts) = (RailId::at(*index), RailNode::Millivolts);
                self.add(&format!("{at}/in_voltage{n}_input"), Attr::Rail(rail, volts));
                self.add(&format!("{at}/in_current{n}_input"), Attr::Rail(rail, RailNode::Milliamperes));
            }
            self.link(&format!("bus/iio/devices/iio:device{device}"), &at);
        }
    }

    fn powercaps(&mut self, spec: &PlantSpec) {
        let counters = spec.sensors.iter().enumerate();
        let counters = counters.filter(|(_, sensor)| sensor.interface == RailInterface::Powercap);
        for (number, (index, sensor)) in counters.enumerate() {
            let at = format!("devices/virtual/powercap/intel-rapl/intel-rapl:{number}");
            self.fixed(&format!("{at}/name"), sensor.name.clone());
            self.fixed(&format!("{at}/max_energy_range_uj"), max_energy_range());
            let counter = Attr::Rail(RailId::at(index), RailNode::EnergyMicrojoules);
            self.add(&format!("{at}/energy_uj"), counter);
            self.link(&format!("class/powercap/intel-rapl:{number}"), &at);
        }
    }

    fn supplies(&mut self, spec: &PlantSpec) {
        let Some(battery) = spec.battery else { return };
        let at = "devices/platform/battery/power_supply/BAT0";
        let full_uwh = crate::units::Microwatts::from_watts(battery.capacity_wh).0.to_string();
        let microvolts = crate::units::Microwatts::from_watts(battery.voltage_v).0.to_string();
        for (name, text) in [
            ("type", "Battery".to_owned()),
            ("present", "1".to_owned()),
            ("scope", "System".to_owned()),
            ("energy_full", full_uwh.clone()),
            ("energy_full_design", full_uwh),
            ("voltage_now", microvolts),
        ] {
            self.fixed(&format!("{at}/{name}"), text);
        }
        for (name, node) in [
            ("status", BatteryNode::Status),
            ("energy_now", BatteryNode::EnergyNow),
            ("power_now", BatteryNode::PowerNow),
            ("capacity", BatteryNode::Capacity),
        ] {
            self.add(&format!("{at}/{name}"), Attr::Battery(node));
        }
        self.link("class/power_supply/BAT0", at);
        let mains = "devices/platform/mains/power_supply/AC";
        self.fixed(&format!("{mains}/type"), "Mains");
        self.add(&format!("{mains}/online"), Attr::MainsOnline);
        self.link("class/power_supply/AC", mains);
    }
}
