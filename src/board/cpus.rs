//! Sets of CPUs, as the kernel writes them and as a board file does.

/// CPUs are numbered below this.
pub(crate) const MAX_CPUS: u16 = 1024;

/// CPUs as the kernel lists them: `0-3,6`, or with spaces between them. What is no number is passed over.
pub(crate) fn listed(text: &str) -> Vec<u16> {
    let parts = text.split([',', ' ', '\n']).filter(|part| !part.is_empty());
    let mut found: Vec<u16> = parts.filter_map(span).flatten().take(usize::from(MAX_CPUS)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn span(part: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    Some(first..=last.min(MAX_CPUS - 1))
}

/// CPUs as the kernel lists them.
pub(crate) fn spans(cpus: &[u16]) -> String {
    let mut spans: Vec<(u16, u16)> = Vec::new();
    for cpu in cpus {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => spans.push((*cpu, *cpu)),
        }
    }
    let each = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    spans.iter().map(each).collect::<Vec<_>>().join(",")
}

/// Whose clocks a domain of a board file sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CpuSet {
    /// Those of all CPUs.
    All,
    /// Those of these CPUs, at least one.
    Of(Vec<u16>),
}

impl CpuSet {
    /// `all`, or a list such as `0` or `0-3,6`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text == "all" {
            return Some(Self::All);
        }
        let sound = |part: &str| span(part).is_some_and(|span| !span.is_empty() && *span.start() < MAX_CPUS);
        (text.split(',').all(sound)).then(|| Self::Of(listed(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read_in_both_dialects() {
        assert_eq!(listed("0-3,6"), [0, 1, 2, 3, 6]);
        assert_eq!(listed("4 5 \n"), [4, 5]);
        assert_eq!(listed("3-1,x,7-"), [] as [u16; 0]);
        assert_eq!(listed("0-65535").len(), usize::from(MAX_CPUS), "bounded");
        assert_eq!(spans(&listed("0-3,6,8-9")), "0-3,6,8-9");
    }

    #[test]
    fn a_set_is_all_or_a_list_without_a_flaw() {
        assert_eq!(CpuSet::parse("all"), Some(CpuSet::All));
        assert_eq!(CpuSet::parse("0"), Some(CpuSet::Of(vec![0])));
        assert_eq!(CpuSet::parse("2-3,0"), Some(CpuSet::Of(vec![0, 2, 3])));
        for flawed in ["", "policy0", "3-1", "0,", "0 1", "1024", "-1", "every"] {
            assert_eq!(CpuSet::parse(flawed), None, "{flawed}");
        }
    }
}
