//! cpufreq's bounds are taken over by a worker of the kernel, some time after the write() has ended: what is read at once
//! may be what was there before.

use std::time::Duration;

/// How often, and after which pause, a node that does not show what was written is read again.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(1);

/// Reads what was written until it shows `wanted`, or is what it will be: held by a cap, or changed by someone else.
///
/// # Errors
/// As `read`.
pub(crate) fn read_back<T: PartialEq, E>(wanted: &T, mut read: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let mut shown = read()?;
    for _ in 0..LOOKS {
        if shown == *wanted {
            break;
        }
        std::thread::sleep(PAUSE);
        shown = read()?;
    }
    Ok(shown)
}
