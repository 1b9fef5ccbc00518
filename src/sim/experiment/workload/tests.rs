use super::*;
use crate::core::energy::Objective;

const GOOD: &str = r#"
[workload]
seconds = 10.0
[[model]]
name = "m"
[[model.variant]]
name = "v"
accuracy = 0.9
macs = 1000
traffic_bytes = 1000
footprint_mb = 1.0
[[class]]
name = "c"
latency_ms = 50.0
[[stream]]
arrival = "periodic"
rate_hz = 10.0
"#;

fn parse(text: &str) -> Result<WorkloadFile, Problems> {
    WorkloadFile::parse(Path::new("/nowhere/day.toml"), text)
}

fn good(text: &str) -> WorkloadFile {
    parse(text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Complaints about the good file with one piece replaced.
fn complaints(piece: &str, by: &str) -> String {
    assert!(GOOD.contains(piece), "{piece}");
    let text = GOOD.replacen(piece, by, 1);
    parse(&text).map_or_else(|problems| problems.to_string(), |_| String::new())
}

#[test]
fn what_is_left_out_has_a_default() {
    let workload = good(GOOD);
    assert_eq!((workload.name.as_str(), workload.lasting), ("day", Nanos::from_secs(10)));
    assert_eq!(workload.budgets.objective, Objective::LeastEnergy);
    assert_eq!(workload.longest_deadline(), Nanos::from_millis(50));
    let stream = &workload.streams[0];
    assert_eq!((stream.class, stream.model, stream.items), (ClassId(0), ModelId(0), 1));
    assert_eq!((stream.from, stream.until), (at_s(0.0), at_s(10.0)));
    let arrivals = Arrivals::Periodic { period: Nanos::from_millis(100), jitter: Nanos::ZERO };
    assert_eq!(stream.arrivals, arrivals);
}

#[test]
fn a_burst_rate_counts_requests() {
    let text = GOOD.replace("arrival = \"periodic\"", "arrival = \"bursts\"\nburst = 5");
    // Ten a second, five at once.
    let arrivals = Arrivals::Bursts { every: Nanos::from_millis(500), size: 5 };
    assert_eq!(good(&text).streams[0].arrivals, arrivals);
}

#[test]
fn mistakes_are_named_with_line_key_value_and_what_is_right() {
    let cases = [
        ("seconds = 10.0", "seconds = -1.0", "day.toml:3: workload.seconds = -1.0: must be from 0.001"),
        ("seconds = 10.0", "seconds = nan", "workload.seconds = nan: must be from"),
        ("seconds = 10.0", "", "workload.seconds: must be there: stream[0] has no until_s"),
        ("seconds = 10.0", "seconds = 10.0\nsecond = 1", "second = 1: unknown field `second`"),
        ("name = \"v\"", "name = \"v w\"", "model[0].variant[0].name = \"v w\": must be 1 to 64 letters"),
        ("accuracy = 0.9", "accuracy = 1.9", "variant[0].accuracy = 1.9: must be from 0 to 1"),
        ("macs = 1000", "", "model[0].variant[0].macs: must be there, unless the variant has a grid"),
        ("macs = 1000", "macs = 1000\ngrid = \"x\"", "grid = \"x\": excludes macs, traffic_bytes"),
        ("footprint_mb = 1.0", "", "variant[0].footprint_mb: must be there"),
        (
            "name = \"m\"",
            "name = \"m\"\nmanifest = \"x.toml\"",
            "model[0].manifest = \"x.toml\": excludes name",
        ),
        ("latency_ms = 50.0", "latency_ms = 0.0", "class[0].latency_ms = 0.0: must be from 0.01"),
        ("rate_hz = 10.0", "", "stream[0].rate_hz: must be there"),
        ("rate_hz = 10.0", "rate_hz = 10.0\nclass = \"d\"", "class = \"d\": no such class; there are: c"),
        ("rate_hz = 10.0", "rate_hz = 10.0\nmodel = \"n\"", "model = \"n\": no such model; there are: m"),
        ("rate_hz = 10.0", "rate_hz = 10.0\nburst = 2", "stream[0].burst = 2: needs arrival = \"bursts\""),
        (
            "rate_hz = 10.0",
            "rate_hz = 10.0\nuntil_s = 11.0",
            "until_s = 11.0: must be at most workload.seconds",
        ),
        ("rate_hz = 10.0", "rate_hz = 10.0\nfrom_s = 10.0", "from_s = 10.0: must be below the stream's end"),
        ("rate_hz = 10.0", "rate_hz = 1e9", "stream[0].rate_hz = 1e9: must be from"),
        ("\"periodic\"", "\"sometimes\"", "unknown variant `sometimes`"),
        ("\"periodic\"\nrate_hz = 10.0", "\"trace\"", "stream[0].trace: must be there"),
        (
            "rate_hz = 10.0",
            "rate_hz = 10.0\n[[stream.spike]]\nfrom_s = 2.0\nuntil_s = 1.0\nfactor = 2.0",
            "stream[0].spike[0].until_s = 1.0: must be above from_s (2)",
        ),
        ("[[stream]]", "[profile]\nerror = 2.0\n[[stream]]", "profile.error = 2.0: must be from 0 to 0.9"),
    ];
    for (piece, by, wanted) in cases {
        let found = complaints(piece, by);
        assert!(found.contains(wanted), "{by:?}:\n{found}\nwanted {wanted}");
    }
    let all = complaints("rate_hz = 10.0", "rate_hz = 0.0\nitems = 0\ndeadline_ms = -3.0");
    assert_eq!(all.lines().count(), 3, "{all}");
}

#[test]
fn a_trace_gives_a_stream_per_class_and_the_length() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("day.toml");
    let text = GOOD
        .replace("seconds = 10.0", "")
        .replace("[[stream]]", "[[class]]\nname = \"d\"\n[[stream]]")
        .replace("\"periodic\"\nrate_hz = 10.0", "\"trace\"\ntrace = \"t.csv\"\nfrom_s = 1.0");
    std::fs::write(folder.path().join("t.csv"), "arrival_us,class\n5,d\n7,c\n2000000,d\n").unwrap();
    let workload = WorkloadFile::parse(&file, &text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(workload.lasting, Nanos::from_micros(3_000_001));
    let moments = |index: usize| match &workload.streams[index].arrivals {
        Arrivals::Trace(moments) => moments.to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!((workload.streams[0].class, moments(0)), (ClassId(0), vec![Nanos::from_micros(7)]));
    let later = [5, 2_000_000].map(Nanos::from_micros).to_vec();
    assert_eq!((workload.streams[1].class, moments(1)), (ClassId(1), later));

    let only = text.replace("from_s = 1.0", "class = \"c\"");
    let workload = WorkloadFile::parse(&file, &only).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(workload.streams.len(), 1);

    std::fs::write(folder.path().join("t.csv"), "arrival_us,class\n5,d\n7,e\n").unwrap();
    let found = WorkloadFile::parse(&file, &text).unwrap_err().to_string();
    assert!(found.contains("has rows of class `e`; the workload's classes are: c, d"), "{found}");
    std::fs::write(folder.path().join("t.csv"), "arrival_us,class\n5\n").unwrap();
    let found = WorkloadFile::parse(&file, &text).unwrap_err().to_string();
    assert!(found.ends_with("t.csv:2: 1 fields; the header has 2"), "{found}");
}
