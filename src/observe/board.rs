//! What a board shows besides the readings that decisions rest on, as metrics.

use super::effects::Observer;
use super::names::Metric;
use crate::board::panel::{AlarmState, Foreign, Instrument, Quality};

impl Observer {
    /// To be called now and then with all that the board shows.
    pub fn board(&self, instruments: &[Instrument], alarms: &[AlarmState], foreign: &[Foreign]) {
        for instrument in instruments {
            let current = matches!(instrument.quality, Quality::Measured | Quality::Partial);
            let value = instrument.value.filter(|_| current).unwrap_or(f64::NAN);
            if let Some(processor) = instrument.name.strip_prefix("load ") {
                self.registry.gauge(Metric::Load, &[processor]).set(value);
            } else if instrument.quality == Quality::Partial && instrument.unit == "W" {
                self.registry.gauge(Metric::PartialPower, &[instrument.name.as_str()]).set(value);
            }
        }
        for AlarmState { alarm, on, events } in alarms {
            let Some(on) = on else { continue };
            self.registry.gauge(Metric::Alarm, &[alarm.name()]).set(f64::from(u8::from(*on)));
            self.registry.counter(Metric::Alarms, &[alarm.name()]).absolute(*events);
        }
        for Foreign { domain, changes, .. } in foreign {
            self.registry.counter(Metric::ForeignBounds, &[domain.as_str()]).absolute(*changes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::panel::Alarm;
    use crate::observe::Names;

    #[test]
    fn loads_alarms_and_foreign_bounds_are_on_the_page_and_what_is_stale_is_no_number() {
        let board = crate::board::shipped::named("desktop").unwrap().unwrap().board();
        let catalog = crate::core::catalog::Catalog { board, models: Vec::new(), variants: Vec::new() };
        let observer = Observer::new(Names::new(&catalog, &[], &[]));
        let instrument = |name: &str, unit: &str, quality| Instrument {
            name: name.to_owned(),
            value: Some(0.5),
            unit: unit.to_owned(),
            age_s: Some(0.1),
            source: String::new(),
            quality,
            fault: None,
            note: None,
        };
        let instruments = [
            instrument("load gpu", "1", Quality::Measured),
            instrument("load npu", "1", Quality::Stale),
            instrument("rails of the PMIC", "W", Quality::Partial),
            instrument("rail VDD_IN", "W", Quality::Measured),
        ];
        let alarms = [
            AlarmState { alarm: Alarm::UnderVoltage, on: Some(true), events: 3 },
            AlarmState { alarm: Alarm::Throttled, on: None, events: 0 },
        ];
        let foreign = [Foreign { domain: "cpu".to_owned(), min_khz: None, max_khz: None, changes: 2 }];
        observer.board(&instruments, &alarms, &foreign);
        let page = observer.page().render();
        for line in [
            "wattd_load_ratio{processor=\"gpu\"} 0.5",
            "wattd_load_ratio{processor=\"npu\"} NaN",
            "wattd_partial_power_watts{source=\"rails of the PMIC\"} 0.5",
            "wattd_alarm{alarm=\"under_voltage\"} 1",
            "wattd_alarms_total{alarm=\"under_voltage\"} 3",
            "wattd_foreign_bounds_total{domain=\"cpu\"} 2",
        ] {
            assert!(page.lines().any(|found| found == line), "no `{line}` in\n{page}");
        }
        assert!(!page.contains("alarm=\"throttled\"") && !page.contains("source=\"rail VDD_IN\""), "{page}");
    }
}
