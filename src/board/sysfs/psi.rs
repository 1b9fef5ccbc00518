//! Pressure stall information from `/proc/pressure`.

use super::root::{Page, SysfsError, SysfsRoot, garbled};
use crate::core::event::Pressure;
use crate::units::Ppm;
use std::path::Path;

/// The three files.
#[derive(Debug)]
pub(crate) struct PressureSensor {
    cpu: super::root::Attribute,
    memory: super::root::Attribute,
    io: super::root::Attribute,
}

impl PressureSensor {
    /// Below an injected root that stands for `/proc`.
    pub(crate) fn find(proc: &SysfsRoot) -> Result<Self, String> {
        if !proc.exists("pressure/cpu") {
            let at = proc.path("pressure");
            return Err(format!("no pressure stall information in {}: kernel without PSI", at.display()));
        }
        Ok(Self {
            cpu: proc.attribute("pressure/cpu"),
            memory: proc.attribute("pressure/memory"),
            io: proc.attribute("pressure/io"),
        })
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        self.cpu.path()
    }

    /// `some avg10` of all three.
    pub(crate) fn sample(&mut self, buffer: &mut Page) -> Result<Pressure, SysfsError> {
        let mut read = |attribute: &mut super::root::Attribute| {
            let text = attribute.text(buffer)?;
            parse(text, attribute.path())
        };
        Ok(Pressure { cpu: read(&mut self.cpu)?, memory: read(&mut self.memory)?, io: read(&mut self.io)? })
    }
}

/// `some avg10` of a pressure file. Kernels before 5.13 have no `full` line for CPUs, so only the first
/// line is asked for.
fn parse(text: &str, path: &Path) -> Result<Ppm, SysfsError> {
    let wrong = || garbled(path, text, "\"some avg10=<percent> ...\"");
    let line = text.lines().next().unwrap_or_default();
    let words = line.strip_prefix("some ").ok_or_else(wrong)?;
    let average = words.split_ascii_whitespace().find_map(|word| word.strip_prefix("avg10="));
    let percent: f64 = average.and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(wrong());
    }
    Ok(Ppm::from_fraction(percent / 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::SensorFault;
    use proptest::prelude::*;

    #[test]
    fn the_kernels_text_gives_the_share() {
        let text =
            "some avg10=12.34 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0";
        assert_eq!(parse(text, Path::new("cpu")).unwrap(), Ppm(123_400));
    }

    #[test]
    fn what_is_no_share_is_garbled() {
        for text in [
            "",
            "some",
            "full avg10=1",
            "some avg10=nan avg60=0 avg300=0 total=0",
            "some avg10=101.0 avg60=0 avg300=0 total=0",
        ] {
            assert_eq!(parse(text, Path::new("cpu")).unwrap_err().fault(), SensorFault::Garbled, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(some |full |som)?\\PC{0,80}") {
            let _ = parse(&text, Path::new("cpu"));
        }
    }
}
