//! What a session costs in memory, and giving it back.

use crate::units::Bytes;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Anonymous resident memory of this process (heap and stacks, no mapped files); zero if unknown.
pub(super) fn resident_anonymous() -> Bytes {
    let Ok(statm) = procfs::process::Process::myself().and_then(|process| process.statm()) else {
        return Bytes::ZERO;
    };
    // Through libc: reading the auxiliary vector directly, as `procfs` does, fails under valgrind.
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096);
    Bytes(statm.resident.saturating_sub(statm.shared).saturating_mul(page))
}

/// Held while a session is made or dropped: one at a time, so that the growth of the process's memory
/// is this session's.
pub(super) fn measuring() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives free heap pages back to the system. Without it glibc keeps most of an unloaded session
/// (93 MB stayed behind in a measurement, 10 MB after this call).
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "malloc_trim has no safe wrapper")]
pub(super) fn trim_heap() {
    // SAFETY: malloc_trim takes no pointer, is thread safe (MT-Safe in malloc_trim(3)) and touches only
    // pages that hold no live allocation.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Other C libraries return free pages by themselves, or have no such call.
#[cfg(not(target_env = "gnu"))]
pub(super) fn trim_heap() {}
