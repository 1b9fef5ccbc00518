//! What a Raspberry Pi's firmware says: whether it throttles or lacks voltage, and the rails of the Pi 5's power
//! management chip.

use super::hwmon;
use super::root::{Attribute, Page, SysfsError, SysfsRoot, garbled, plausible_power};
use crate::units::Microwatts;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

const PLATFORM: &str = "devices/platform";
/// The firmware's mailbox.
const MAILBOX: &str = "dev/vcio";
/// Room for the firmware's answer.
const MAX_ANSWER: usize = 1024;

/// Bits of `get_throttled` that hold now; those that held once since power-on stand 16 higher.
pub(crate) mod throttled {
    pub(crate) const UNDER_VOLTAGE: u32 = 1;
    pub(crate) const CAPPED: u32 = 1 << 1;
    pub(crate) const THROTTLED: u32 = 1 << 2;
    pub(crate) const SOFT_LIMIT: u32 = 1 << 3;
}

/// `get_throttled` of the firmware's device.
#[derive(Debug)]
pub(crate) struct ThrottledSensor {
    node: Attribute,
}

impl ThrottledSensor {
    /// Below `devices/platform`: `soc/soc:firmware`, or whatever its bus is called on another kernel.
    pub(crate) fn find(root: &SysfsRoot) -> Option<Self> {
        let buses = root.list(PLATFORM).into_iter().filter(|bus| bus.starts_with("soc"));
        let mut nodes = buses.flat_map(|bus| {
            let bus = Path::new(PLATFORM).join(bus);
            let devices = root.list(&bus).into_iter().filter(|device| device.ends_with("firmware"));
            devices.map(move |device| bus.join(device).join("get_throttled")).collect::<Vec<_>>()
        });
        nodes.find(|node| root.exists(node)).map(|node| Self { node: root.attribute(node) })
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        self.node.path()
    }

    /// The bits.
    pub(crate) fn sample(&mut self, buffer: &mut Page) -> Result<u32, SysfsError> {
        let text = self.node.text(buffer)?;
        let digits = text.strip_prefix("0x").unwrap_or(text);
        u32::from_str_radix(digits, 16).map_err(|_| garbled(self.node.path(), text, "a hexadecimal number"))
    }
}

/// The alarm of hwmon `rpi_volt`, where the kernel has no `get_throttled`.
#[derive(Debug)]
pub(crate) struct VoltageAlarm {
    node: Attribute,
}

impl VoltageAlarm {
    /// The first of them.
    pub(crate) fn find(root: &SysfsRoot) -> Option<Self> {
        let nodes = hwmon::chips(root, "rpi_volt").into_iter().map(|chip| chip.join("in0_lcrit_alarm"));
        nodes.filter(|node| root.exists(node)).map(|node| Self { node: root.attribute(node) }).next()
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        self.node.path()
    }

    /// Whether the voltage is too low.
    pub(crate) fn sample(&mut self, buffer: &mut Page) -> Result<bool, SysfsError> {
        match self.node.text(buffer)? {
            "0" => Ok(false),
            "1" => Ok(true),
            text => Err(garbled(self.node.path(), text, "0 or 1")),
        }
    }
}

/// Rails of the power management chip of a Pi 5. What the 5 V input feeds directly (USB, the fan, an accelerator on
/// PCIe) flows past them.
#[derive(Debug)]
pub(crate) struct PmicSensor {
    path: PathBuf,
    mailbox: Mailbox,
}

#[derive(Debug)]
enum Mailbox {
    /// The firmware's.
    Device(File),
    /// A text with an answer, in a tree that stands for a board.
    Text,
}

impl PmicSensor {
    /// Below the directory that stands for `/`; `None` where there is no mailbox, this user may not use it, or the
    /// firmware knows no such chip.
    pub(crate) fn find(machine: &SysfsRoot) -> Option<Self> {
        let path = machine.path(MAILBOX);
        let is_device = std::fs::metadata(&path).ok()?.file_type().is_char_device();
        let mailbox = if is_device {
            Mailbox::Device(OpenOptions::new().read(true).write(true).open(&path).ok()?)
        } else {
            Mailbox::Text
        };
        let mut sensor = Self { path, mailbox };
        sensor.sample().is_ok().then_some(sensor)
    }

    /// Where it is read.
    pub(crate) fn source(&self) -> &Path {
        &self.path
    }

    /// The power of all rails whose voltage and current are both measured.
    pub(crate) fn sample(&mut self) -> Result<Microwatts, SysfsError> {
        let mut answer = [0; MAX_ANSWER];
        let length =
            self.ask(&mut answer).map_err(|source| SysfsError::Read { path: self.path.clone(), source })?;
        let text = String::from_utf8_lossy(&answer[..length]);
        let watts = rails_w(&text).ok_or_else(|| {
            garbled(&self.path, &text, "lines such as \"VDD_CORE_A current(7)=0.9A\" and their voltages")
        })?;
        plausible_power(Microwatts::from_watts(watts).0, &self.path)
    }

    fn ask(&mut self, answer: &mut [u8; MAX_ANSWER]) -> io::Result<usize> {
        match &self.mailbox {
            Mailbox::Device(device) => vcio::command(device, "pmic_read_adc", answer),
            Mailbox::Text => File::open(&self.path)?.read(answer),
        }
    }
}

/// The sum over all rails of volts times amperes; `None` if a line is none, or no rail has both.
fn rails_w(text: &str) -> Option<f64> {
    let mut currents: Vec<(&str, f64)> = Vec::new();
    let mut volts: Vec<(&str, f64)> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, rest) = line.split_once(' ')?;
        let value = rest.rsplit_once('=')?.1;
        let number = |unit: char| value.strip_suffix(unit)?.parse::<f64>().ok().filter(|n| n.is_finite());
        if let Some(rail) = name.strip_suffix("_A") {
            currents.push((rail, number('A')?));
        } else {
            volts.push((name.strip_suffix("_V")?, number('V')?));
        }
    }
    let both = currents.iter().filter_map(|(rail, amperes)| {
        let (_, volts) = volts.iter().find(|(known, _)| known == rail)?;
        Some(amperes * volts)
    });
    let powers: Vec<f64> = both.collect();
    (!powers.is_empty()).then(|| powers.iter().sum())
}

/// The one ioctl of the firmware's mailbox.
mod vcio {
    use super::MAX_ANSWER;
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd as _;

    /// Runs a command as `vcgencmd` does.
    const GENERAL_COMMAND: u32 = 0x0003_0080;
    /// Words before the text: size, request code, tag, room, length, error.
    const HEAD: usize = 6;
    /// Head, text, and the word that ends the tags.
    const WORDS: usize = HEAD + MAX_ANSWER / 4 + 1;
    /// The firmware's answer to a request that it understood.
    const DONE: u32 = 0x8000_0000;

    mod raw {
        #![allow(unsafe_code, unreachable_pub, missing_docs, reason = "made by a macro")]
        nix::ioctl_readwrite!(property, 100, 0, *mut nix::libc::c_char);
    }

    /// Has the firmware run a command; the length of its answer in bytes.
    #[allow(unsafe_code, reason = "an ioctl has no safe wrapper")]
    pub(super) fn command(device: &File, command: &str, answer: &mut [u8; MAX_ANSWER]) -> io::Result<usize> {
        let mut words = [0_u32; WORDS];
        words[0] = u32::try_from(std::mem::size_of_val(&words)).unwrap_or(0);
        (words[2], words[3]) = (GENERAL_COMMAND, u32::try_from(MAX_ANSWER).unwrap_or(0));
        for (index, chunk) in command.as_bytes().chunks(4).enumerate().take(MAX_ANSWER / 4 - 1) {
            let mut bytes = [0; 4];
            bytes[..chunk.len()].copy_from_slice(chunk);
            words[HEAD + index] = u32::from_ne_bytes(bytes);
        }
        // SAFETY: the request's type says "pointer", but what the driver takes is the address of the message itself,
        // whose first word is its size in bytes: it reads and writes no more than that, and `words` outlives the call.
        unsafe { raw::property(device.as_raw_fd(), words.as_mut_ptr().cast()) }?;
        if words[1] != DONE || words[HEAD - 1] != 0 {
            let message = format!("the firmware answers {:#x}, error {}", words[1], words[HEAD - 1]);
            return Err(io::Error::other(message));
        }
        for (bytes, word) in answer.chunks_exact_mut(4).zip(&words[HEAD..]) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Ok(answer.iter().position(|byte| *byte == 0).unwrap_or(answer.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rails_with_both_figures_are_summed_and_the_input_has_none() {
        let text = "     3V3_SYS_A current(1)=0.5A\n   VDD_CORE_A current(7)=2.00000000A\n\
                    \x20    3V3_SYS_V volt(9)=3.3V\n   VDD_CORE_V volt(15)=0.75000000V\n  EXT5V_V volt(24)=5.1V\n";
        // 0.5 A x 3.3 V + 2 A x 0.75 V = 3.15 W; the 5 V input shows no current.
        let watts = rails_w(text).unwrap();
        assert!((watts - 3.15).abs() < 1e-9, "{watts}");
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for text in [
            "",
            "error=1 error_msg=\"Command not registered\"",
            "A",
            "X_A current(1)=manyA",
            "X_A current(1)=1A",
        ] {
            assert_eq!(rails_w(text), None, "{text:?}");
        }
    }
}
