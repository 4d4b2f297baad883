//! Amounts of memory that this machine has.

pub use peregrine_ir::bytes::{ByteSize, ByteSizeError};

/// Memory this process can still get, from `/proc/meminfo` and the limit of its control group; `None` where neither exists.
pub fn available_memory() -> Option<ByteSize> {
    let machine = kib_field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:");
    match (machine, control_group_headroom()) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Resident size of this process, from `/proc/self/statm`; `None` where there is no such file.
pub fn resident_memory() -> Option<ByteSize> {
    const PAGE: u64 = 4096;
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(ByteSize(pages * PAGE))
}

/// Largest resident size this process has had, from `/proc/self/status`; `None` where there is no such file.
pub fn peak_memory() -> Option<ByteSize> {
    kib_field(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

fn kib_field(text: &str, field: &str) -> Option<ByteSize> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(ByteSize(kib * 1024))
}

fn control_group_headroom() -> Option<ByteSize> {
    let read = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse().ok()
    };
    Some(ByteSize(read("memory.max")?.saturating_sub(read("memory.current")?)))
}
