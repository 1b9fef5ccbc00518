//! The lists of the `[plant]` table.

use super::*;
use crate::board::cpus::CpuSet;

impl Reader<'_> {
    pub(super) fn domains(&mut self) -> Result<Vec<PlantDomain>, PlantSpecError> {
        let raw: Vec<RawDomain> = self.take_list("domain")?;
        for entry in &raw {
            self.domain(&format!("domain[{}]", entry.name), &entry.name)?;
        }
        let offered = |key: &str| -> Option<Vec<String>> {
            let list = self.table.get(key)?.as_array()?;
            Some(list.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect())
        };
        let defaults = RawScalars::default();
        let cpufreq = offered("governors_cpufreq").unwrap_or(defaults.governors_cpufreq);
        let devfreq = offered("governors_devfreq").unwrap_or(defaults.governors_devfreq);
        let mut domains = Vec::new();
        for spec in &self.board.domains {
            let key = format!("plant.domain[{}]", spec.name);
            let entry = raw.iter().find(|entry| entry.name == spec.name);
            let listed = entry.map(|entry| entry.opps_khz.as_slice()).filter(|opps| !opps.is_empty());
            let opps: Vec<Kilohertz> =
                listed.unwrap_or(&spec.opps_khz).iter().map(|khz| Kilohertz(*khz)).collect();
            let ascending = opps.windows(2).all(|pair| pair[0] < pair[1]);
            if opps.is_empty() || opps.len() > Curve::MAX_POINTS || !ascending || opps[0].0 == 0 {
                let wanted = format!("wanted 1 to {} ascending clocks above 0", Curve::MAX_POINTS);
                return Err(self.error(format!("{key}.opps_khz"), wanted));
            }
            let governors = match spec.interface {
                DomainInterface::Cpufreq => cpufreq.clone(),
                DomainInterface::Devfreq => devfreq.clone(),
            };
            // The last in the list is the dynamic one, as kernels are usually configured.
            let last = governors.last().cloned().unwrap_or_default();
            let governor = entry.and_then(|entry| entry.governor.clone()).unwrap_or(last);
            if !governors.contains(&governor) {
                let problem = format!("`{governor}`; offered: {}", governors.join(", "));
                return Err(self.error(format!("{key}.governor"), problem));
            }
            // Of several policies that are set alike it has one.
            let cpus = entry.and_then(|entry| entry.cpus.clone());
            let device =
                match CpuSet::parse(&spec.select).filter(|_| spec.interface == DomainInterface::Cpufreq) {
                    Some(CpuSet::Of(cpus)) => cpus[0].to_string(),
                    Some(CpuSet::All) => "0".to_owned(),
                    None => spec.select.clone(),
                };
            let cpus = cpus.unwrap_or_else(|| device.clone());
            let device = entry.and_then(|entry| entry.device.clone()).unwrap_or(device);
            domains.push(PlantDomain {
                name: spec.name.clone(),
                interface: spec.interface,
                opps,
                settle: Nanos::from_micros(spec.settle_us),
                governor,
                governors,
                throttled: entry.is_none_or(|entry| entry.throttled),
                device,
                cpus,
            });
        }
        Ok(domains)
    }

    pub(super) fn units(&mut self) -> Result<Vec<PlantUnit>, PlantSpecError> {
        let raw: Vec<RawUnit> = self.take_list("unit")?;
        for entry in &raw {
            self.unit(&format!("unit[{}]", entry.name), &entry.name)?;
        }
        let mut units = Vec::new();
        for spec in &self.board.units {
            let key = format!("unit[{}]", spec.name);
            let Some(entry) = raw.iter().find(|entry| entry.name == spec.name) else {
                return Err(self.error(format!("plant.{key}"), "missing; the board has this unit"));
            };
            let rate = |precision: &str| entry.macs_per_cycle.get(precision).copied();
            let known = ["fp32", "fp16", "int8"];
            if let Some(other) = entry.macs_per_cycle.keys().find(|name| !known.contains(&name.as_str())) {
                let problem = format!("`{other}`; wanted fp32, fp16 or int8");
                return Err(self.error(format!("plant.{key}.macs_per_cycle"), problem));
            }
            let Some(fp32) = rate("fp32") else {
                return Err(self.error(format!("plant.{key}.macs_per_cycle"), "fp32 is missing"));
            };
            let rate_key = format!("{key}.macs_per_cycle");
            let link = |name: &Option<String>| name.as_ref().map(|name| self.domain(&key, name)).transpose();
            units.push(PlantUnit {
                name: spec.name.clone(),
                group: spec.shares.clone().unwrap_or_else(|| spec.name.clone()),
                domain: link(&spec.domain)?,
                memory_domain: link(&spec.memory_domain)?,
                fp32: self.within(&rate_key, fp32, 1e-3, 1e6)?,
                fp16: self.within(&rate_key, rate("fp16").unwrap_or(fp32), 1e-3, 1e6)?,
                int8: self.within(&rate_key, rate("int8").unwrap_or(fp32), 1e-3, 1e6)?,
                bandwidth_gb_s: self.within(
                    &format!("{key}.bandwidth_gb_s"),
                    entry.bandwidth_gb_s,
                    1e-3,
                    1e5,
                )?,
                p: self.within(&format!("{key}.p"), entry.p, 1.0, 8.0)?,
                overhead_s: self.within(&format!("{key}.overhead_us"), entry.overhead_us, 0.0, 1e6)? / 1e6,
                marginal: self.within(&format!("{key}.marginal"), entry.marginal, 0.0, 1.0)?,
            });
        }
        Ok(units)
    }

    pub(super) fn zones(&mut self) -> Result<Vec<PlantZone>, PlantSpecError> {
        let raw: Vec<RawZone> = self.take_list("zone")?;
        let names: Vec<&str> = self.board.zones.iter().map(|zone| zone.name.as_str()).collect();
        for entry in &raw {
            let key = format!("zone[{}]", entry.name);
            self.lookup(&key, "zone", &entry.name, &names)?;
            self.within(&format!("{key}.die_share"), entry.die_share, 0.0, 1.0)?;
            self.within(&format!("{key}.offset_k"), entry.offset_k, -50.0, 50.0)?;
        }
        let mut zones = Vec::new();
        for spec in &self.board.zones {
            if !(spec.passive_c < spec.critical_c && spec.passive_c > 0.0 && spec.critical_c < 200.0) {
                let problem = format!("passive {} critical {}", spec.passive_c, spec.critical_c);
                return Err(self.error(
                    format!("zone[{}]", spec.name),
                    problem + "; wanted 0 < passive < critical < 200",
                ));
            }
            let entry = raw.iter().find(|entry| entry.name == spec.name);
            zones.push(PlantZone {
                name: spec.name.clone(),
                passive: MilliCelsius::from_celsius(spec.passive_c),
                critical: MilliCelsius::from_celsius(spec.critical_c),
                die_share: entry.map_or(1.0, |entry| entry.die_share),
                offset_k: entry.map_or(0.0, |entry| entry.offset_k),
            });
        }
        Ok(zones)
    }

    pub(super) fn rails(&mut self) -> Result<Vec<PlantRail>, PlantSpecError> {
        let raw: Vec<RawRail> = self.take_list("rail")?;
        if raw.is_empty() {
            return Err(self.error("plant.rail", "missing; wanted at least one [[plant.rail]]"));
        }
        let mut rails: Vec<PlantRail> = Vec::new();
        for entry in raw {
            let key = format!("rail[{}]", entry.name);
            if rails.iter().any(|rail| rail.name == entry.name) {
                return Err(self.error(format!("plant.{key}"), "twice"));
            }
            self.within(&format!("{key}.base_w"), entry.base_w, 0.0, 1e4)?;
            self.within(&format!("{key}.leakage_w"), entry.leakage_w, 0.0, 1e3)?;
            self.within(&format!("{key}.leakage_at_c"), entry.leakage_at_c, -40.0, 125.0)?;
            self.within(&format!("{key}.leakage_e_fold_k"), entry.leakage_e_fold_k, 5.0, 1e3)?;
            self.within(&format!("{key}.volts"), entry.volts, 0.1, 1e3)?;
            rails.push(PlantRail {
                name: entry.name,
                base_w: entry.base_w,
                leakage_w: entry.leakage_w,
                leakage_at_c: entry.leakage_at_c,
                leakage_e_fold_k: entry.leakage_e_fold_k,
                volts: entry.volts,
            });
        }
        Ok(rails)
    }

    pub(super) fn loads(&mut self, rails: &[PlantRail]) -> Result<Vec<Load>, PlantSpecError> {
        let raw: Vec<RawLoad> = self.take_list("load")?;
        let names: Vec<&str> = rails.iter().map(|rail| rail.name.as_str()).collect();
        let mut loads = Vec::new();
        for (index, entry) in raw.into_iter().enumerate() {
            let key = format!("load[{index}]");
            let rail = self.lookup(&format!("{key}.rail"), "rail", &entry.rail, &names)?;
            let driver = match (&entry.unit, &entry.domain) {
                (Some(unit), None) => Driver::Unit(self.unit(&format!("{key}.unit"), unit)?),
                (None, Some(domain)) => Driver::Domain(self.domain(&format!("{key}.domain"), domain)?),
                _ => return Err(self.error(format!("plant.{key}"), "wanted either unit or domain")),
            };
            let watts = Curve::new(&entry.watts).map_err(|e| self.error(format!("plant.{key}.watts"), e))?;
            if let Some([khz, watts]) = entry.watts.iter().find(|[_, watts]| !(*watts >= 0.0 && *watts < 1e4))
            {
                let problem = format!("{watts} W at {khz} kHz; wanted 0 to 10000");
                return Err(self.error(format!("plant.{key}.watts"), problem));
            }
            loads.push(Load { rail, driver, watts });
        }
        Ok(loads)
    }

    pub(super) fn sensors(&self, rails: &[PlantRail]) -> Result<Vec<RailSensor>, PlantSpecError> {
        let names: Vec<&str> = rails.iter().map(|rail| rail.name.as_str()).collect();
        let sensor = |spec: &crate::board::spec::RailSpec| {
            let source = if spec.input {
                RailSource::Input
            } else {
                RailSource::Rail(self.lookup("rail", "physical rail", &spec.name, &names)?)
            };
            Ok(RailSensor {
                name: spec.name.clone(),
                interface: spec.interface,
                chip: spec.chip.clone(),
                source,
            })
        };
        self.board.rails.iter().map(sensor).collect()
    }

    pub(super) fn grids(&mut self) -> Result<Vec<MeasuredNetwork>, PlantSpecError> {
        let raw: Vec<RawGrid> = self.take_list("grid")?;
        let mut grids = Vec::new();
        for entry in raw {
            let key = format!("grid[{}]", entry.name);
            let unit = self.unit(&format!("{key}.unit"), &entry.unit)?;
            let grid = Grid::new(&entry.clocks_khz, &entry.memory_khz, &entry.latency_ms)
                .map_err(|e| self.error(format!("plant.{key}"), e))?;
            if entry.memory_ms.len() != entry.memory_khz.len() {
                let problem =
                    format!("{} values for {} memory clocks", entry.memory_ms.len(), entry.memory_khz.len());
                return Err(self.error(format!("plant.{key}.memory_ms"), problem));
            }
            for value in &entry.memory_ms {
                self.within(&format!("{key}.memory_ms"), *value, 0.0, 1e7)?;
            }
            grids.push(MeasuredNetwork {
                name: entry.name,
                unit,
                grid,
                compute_s_ghz: self.within(
                    &format!("{key}.compute_ms_ghz"),
                    entry.compute_ms_ghz,
                    1e-6,
                    1e7,
                )? / 1e3,
                memory_s: entry.memory_ms.iter().map(|ms| ms / 1e3).collect(),
                p: self.within(&format!("{key}.p"), entry.p, 1.0, 8.0)?,
            });
        }
        Ok(grids)
    }
}
