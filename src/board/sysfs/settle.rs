//! cpufreq's bounds are taken over by a worker of the kernel, some time after the write() has ended: what is read at once
//! may be what was there before.

use std::time::Duration;

/// How often a node that does not show what was written is read again, and the first pause before that; each is twice as
/// long as the one before it, 6 ms together.
const LOOKS: u32 = 7;
const PAUSE: Duration = Duration::from_micros(50);

/// Reads what was written until it shows `wanted`, or is what it will be: held by a cap, or changed by someone else.
///
/// # Errors
/// As `read`.
pub(crate) fn read_back<T: PartialEq, E>(wanted: &T, mut read: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let mut shown = read()?;
    for look in 0..LOOKS {
        if shown == *wanted {
            break;
        }
        std::thread::sleep(PAUSE * (1 << look));
        shown = read()?;
    }
    Ok(shown)
}
