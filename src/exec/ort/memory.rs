//! What a session costs in memory, whether there is some, and giving it back.

use crate::board::sysfs::memory_probe;
use crate::exec::{ExecError, VariantFile};
use crate::units::Bytes;
use std::sync::{Mutex, MutexGuard, PoisonError};

const NO_ROOM: &str = "no memory";

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

/// Refuses a variant that there is not memory for now: on a machine without, the kernel would end whole processes.
///
/// # Errors
/// [`ExecError::Memory`]. Where memory cannot be read, there is some.
pub(super) fn check_room(variant: &VariantFile) -> Result<(), ExecError> {
    let need = least(variant);
    match memory_probe()() {
        Ok(memory) if memory.room() < need => {
            Err(ExecError::Memory { variant: variant.name.clone(), need, available: memory.room() })
        }
        _ => Ok(()),
    }
}

/// What a load takes at least: the graph as it is read, and what is made of it.
fn least(variant: &VariantFile) -> Bytes {
    let file = std::fs::metadata(&variant.path).map_or(0, |metadata| metadata.len());
    Bytes(file.saturating_mul(2))
}

/// The error if a load failed because an allocation did: by a limit on this process, say, which [`check_room`] does not
/// see.
pub(super) fn shortage(variant: &VariantFile, message: &str) -> Option<ExecError> {
    // The words of ONNX Runtime's arena, of C++ and of `buffer`.
    let words = ["Failed to allocate memory", "bad_alloc", NO_ROOM];
    words.iter().any(|word| message.contains(word)).then(|| {
        let available = memory_probe()().map_or(Bytes::ZERO, |memory| memory.room());
        ExecError::Memory { variant: variant.name.clone(), need: least(variant), available }
    })
}

/// Room for the whole of a file.
///
/// # Errors
/// If there is none, where an ordinary vector would end the process.
pub(in crate::exec) fn buffer(bytes: u64) -> Result<Vec<u8>, String> {
    let mut buffer = Vec::new();
    let bytes = usize::try_from(bytes).map_err(|error| error.to_string())?;
    buffer.try_reserve_exact(bytes).map_err(|error| format!("{NO_ROOM} for {bytes} bytes: {error}"))?;
    Ok(buffer)
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
