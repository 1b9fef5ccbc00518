//! The workload file: models, classes and budgets, and who asks for what, and when. `config/README.md` explains
//! every key. All that is wrong is reported at once.

use super::raw::{RawArrival, RawFile, RawModel, RawStream, RawVariant};
use super::trace::{self, Trace};
use crate::board::BoardSpec;
use crate::board::sim::{PlantSpec, Precision, Work};
use crate::config::document::{Document, Problem, Problems, read_text};
use crate::config::{Check, Context, RawConfig};
use crate::core::catalog::{ModelId, UnitKind};
use crate::core::energy::Budgets;
use crate::core::event::{AppId, ClassId};
use crate::model::manifest;
use crate::sim::{Arrivals, SimModel, SimVariant, Spike, Stream};
use crate::time::Timestamp;
use crate::units::{Bytes, Nanos, Ppm};
use std::collections::BTreeMap;
use std::path::Path;

/// Longest file, bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Most models, streams, variants of a model and spikes of a stream.
const MAX_ENTRIES: usize = 64;
/// Longest workload: 31 days.
const MAX_SECONDS: f64 = 2_678_400.0;
/// Most requests that may be expected of one workload.
const MAX_REQUESTS: f64 = 1e8;
/// Most multiply-accumulates or bytes of traffic per item, as in a manifest.
const MAX_COST: u64 = 1 << 50;

/// A validated workload file. Its times count from the start of the workload.
#[derive(Debug, Clone)]
pub(in crate::sim) struct WorkloadFile {
    pub(in crate::sim) name: String,
    pub(in crate::sim) models: Vec<ModelSource>,
    pub(in crate::sim) budgets: Budgets,
    pub(in crate::sim) streams: Vec<Stream>,
    pub(in crate::sim) lasting: Nanos,
    /// `None`: as long as loading takes.
    pub(in crate::sim) warmup: Option<Nanos>,
    /// Largest relative error of the profiles that the scheduler is told.
    pub(in crate::sim) profile_error: f64,
}

/// A configuration whose budgets, classes and models take the place of the file's own.
#[derive(Clone, Copy)]
pub(in crate::sim) struct Under<'a> {
    /// Its file, for messages.
    pub(in crate::sim) file: &'a Path,
    pub(in crate::sim) budgets: &'a Budgets,
    /// These come first; the file's own follow where no model here has their name.
    pub(in crate::sim) models: &'a [SimModel],
    /// The class of a request that names none.
    pub(in crate::sim) class_of: &'a dyn Fn(AppId, &str) -> ClassId,
}

/// A model whose measured networks a board must have.
#[derive(Debug, Clone)]
pub(in crate::sim) struct ModelSource {
    pub(in crate::sim) model: SimModel,
    /// By variant: the name of the network, and where the file asks for it.
    grids: BTreeMap<usize, (String, Problem)>,
}

impl From<SimModel> for ModelSource {
    fn from(model: SimModel) -> Self {
        Self { model, grids: BTreeMap::new() }
    }
}

impl ModelSource {
    /// The model on this board.
    pub(super) fn on(&self, board: &BoardSpec, plant: &PlantSpec) -> Result<SimModel, Problem> {
        let mut model = self.model.clone();
        for (index, (name, place)) in &self.grids {
            let Some(grid) = plant.grid_named(name) else {
                let known: Vec<&str> = plant.grids.iter().map(|grid| grid.name.as_str()).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let message = format!("board {} has no such measured network; it has: {known}", board.name);
                return Err(Problem { message, ..place.clone() });
            };
            let unit = plant.grids[usize::from(grid.0)].unit;
            let variant = &mut model.variants[*index];
            variant.work = Work::measured(grid, 1);
            variant.kinds = board.units.get(unit.index()).map(|unit| unit.kind).into_iter().collect();
        }
        Ok(model)
    }
}

impl WorkloadFile {
    /// Reads and validates a file, and the traces and manifests that it names.
    pub(super) fn load(file: &Path) -> Result<Self, Problems> {
        let text = read_text(file, MAX_BYTES).map_err(|problem| Problems(vec![problem]))?;
        Self::parse(file, &text)
    }

    /// The same under a configuration: the file's own budgets and classes are not used.
    pub(in crate::sim) fn load_under(file: &Path, under: Under<'_>) -> Result<Self, Problems> {
        let text = read_text(file, MAX_BYTES).map_err(|problem| Problems(vec![problem]))?;
        Self::parse_under(file, &text, Some(under))
    }

    fn parse(file: &Path, text: &str) -> Result<Self, Problems> {
        Self::parse_under(file, text, None)
    }

    fn parse_under(file: &Path, text: &str, under: Option<Under<'_>>) -> Result<Self, Problems> {
        let mut document = Document::parse(file, text);
        let Some(raw) = document.read::<RawFile>() else { return document.finish(None) };
        // A workload knows no machine and no date: its day begins at midnight, and apps are numbers.
        let context = Context {
            now: jiff::Timestamp::UNIX_EPOCH.to_zoned_datetime(jiff::tz::TimeZone::UTC),
            user_id: &|_| None,
            group_id: &|_| None,
        };
        let check = Check::new(file, document, &context);
        let mut reader = Reader { file, check, foreign: Vec::new(), under };
        let workload = reader.workload(&raw);
        let Reader { check, foreign, .. } = reader;
        match check.document.finish(Some(workload)) {
            Ok(workload) if foreign.is_empty() => Ok(workload),
            Ok(_) => Err(Problems(foreign)),
            Err(Problems(problems)) => Err(Problems(problems.into_iter().chain(foreign).collect())),
        }
    }

    /// Longest time that an answer may take.
    pub(super) fn longest_deadline(&self) -> Nanos {
        longest_deadline(&self.streams, &self.budgets)
    }
}

/// Longest time that an answer to one of these may take.
pub(in crate::sim) fn longest_deadline(streams: &[Stream], budgets: &Budgets) -> Nanos {
    let deadline = |stream: &Stream| {
        let class = budgets.classes.get(usize::from(stream.class.0));
        stream.deadline.or(class.map(|class| class.latency))
    };
    streams.iter().filter_map(deadline).max().unwrap_or(Nanos::ZERO)
}

struct Reader<'a, 't> {
    file: &'a Path,
    check: Check<'a, 't>,
    /// Problems of other files: manifests and traces.
    foreign: Vec<Problem>,
    under: Option<Under<'a>>,
}

impl Reader<'_, '_> {
    fn workload(&mut self, raw: &RawFile) -> WorkloadFile {
        let stem = self.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let name = raw.workload.name.clone().unwrap_or(stem);
        self.check.name("workload.name", &name);
        let config = RawConfig {
            budget: raw.budget.clone(),
            class: raw.class.clone(),
            memory: raw.memory.clone(),
            ..RawConfig::default()
        };
        let (own, _) = self.check.budgets(&config);
        let budgets = self.under.map_or(own, |under| under.budgets.clone());
        self.list("model", raw.model.len() + self.under.map_or(0, |under| under.models.len()));
        let models: Vec<ModelSource> =
            raw.model.iter().take(MAX_ENTRIES).enumerate().map(|(i, raw)| self.model(i, raw)).collect();
        for (i, model) in models.iter().enumerate() {
            if models[..i].iter().any(|earlier| earlier.model.name == model.model.name) {
                let message = format!("`{}` is the name of an earlier model", model.model.name);
                self.complain(&format!("model[{i}]"), &message);
            }
        }
        let (models, usual) = self.with_those_of_the_configuration(models);
        self.list("stream", raw.stream.len());
        let streams = raw.stream.iter().take(MAX_ENTRIES).enumerate();
        let traces: Vec<Option<Trace>> = streams.map(|(i, stream)| self.trace(i, stream)).collect();
        let seconds = self.seconds(raw, &traces);
        let names = Names { models: &models, usual, budgets: &budgets, seconds };
        let streams = raw.stream.iter().zip(traces).enumerate();
        let streams: Vec<Stream> =
            streams.flat_map(|(i, (stream, trace))| self.stream(i, stream, trace, &names)).collect();
        let warmup = self.check.optional("workload.warmup_s", raw.workload.warmup_s, 0.1..=3600.0, "s");
        let profile_error =
            self.check.number("profile.error", raw.profile.error, 0.0..=0.9, "as a fraction, such as 0.2");
        WorkloadFile {
            name,
            models,
            budgets,
            streams,
            lasting: Nanos::from_secs_f64(seconds),
            warmup: warmup.map(Nanos::from_secs_f64),
            profile_error,
        }
    }

    /// All models, and the one that a stream means which names none.
    fn with_those_of_the_configuration(&self, own: Vec<ModelSource>) -> (Vec<ModelSource>, Option<usize>) {
        let sole = if let [sole] = own.as_slice() { Some(sole.model.name.clone()) } else { None };
        let first = self.under.map_or(&[][..], |under| under.models);
        let known = |name: &str| first.iter().any(|model| model.name == name);
        let mut models: Vec<ModelSource> = first.iter().cloned().map(ModelSource::from).collect();
        models.extend(own.into_iter().filter(|source| !known(&source.model.name)));
        let usual = match sole {
            Some(name) => models.iter().position(|source| source.model.name == name),
            None => (models.len() == 1).then_some(0),
        };
        (models, usual)
    }

    fn complain(&mut self, key: &str, message: &str) {
        self.check.document.complain(key, message);
    }

    fn list(&mut self, key: &str, length: usize) {
        if length == 0 {
            self.complain(key, &format!("must be there: at least one [[{key}]]"));
        }
        self.check.bounded(key, length, MAX_ENTRIES);
    }

    fn model(&mut self, i: usize, raw: &RawModel) -> ModelSource {
        let key = |name: &str| format!("model[{i}].{name}");
        let empty = SimModel { name: String::new(), max_batch: 1, variants: Vec::new() };
        if let Some(path) = &raw.manifest {
            if raw.name.is_some() || raw.max_batch.is_some() || !raw.variant.is_empty() {
                self.complain(&key("manifest"), "excludes name, max_batch and variant: it says them itself");
            }
            let path = self.check.path(&key("manifest"), path);
            return self.manifest(&path).unwrap_or(empty).into();
        }
        let name = raw.name.clone().unwrap_or_default();
        if raw.name.is_none() {
            self.complain(&key("name"), "must be there, unless the model has a manifest");
        } else {
            self.check.name(&key("name"), &name);
        }
        let max_batch = self.check.count(&key("max_batch"), raw.max_batch.unwrap_or(1), 1..=4096);
        if raw.variant.is_empty() {
            self.complain(&key("variant"), "must be there: at least one [[model.variant]]");
        }
        self.check.bounded(&key("variant"), raw.variant.len(), manifest::MAX_VARIANTS);
        let mut grids = BTreeMap::new();
        let variants = raw.variant.iter().take(manifest::MAX_VARIANTS).enumerate();
        let variants = variants.map(|(v, variant)| {
            let key = format!("model[{i}].variant[{v}]");
            if raw.variant[..v].iter().any(|earlier| earlier.name == variant.name) {
                self.complain(&format!("{key}.name"), "is the name of an earlier variant");
            }
            if let Some(name) = &variant.grid {
                let place = self.place(&format!("{key}.grid"), name);
                grids.insert(v, (name.clone(), place));
            }
            self.variant(&key, variant)
        });
        let model = SimModel { name, max_batch, variants: variants.collect() };
        ModelSource { model, grids }
    }

    /// Where a value stands, for a problem that only shows later.
    fn place(&self, key: &str, value: &str) -> Problem {
        Problem {
            file: self.file.to_owned(),
            line: self.check.document.line_of(key),
            key: key.to_owned(),
            value: Some(format!("\"{value}\"")),
            message: String::new(),
        }
    }

    fn manifest(&mut self, path: &Path) -> Option<SimModel> {
        let text = read_text(path, MAX_BYTES).map_err(|problem| self.foreign.push(problem)).ok()?;
        let parsed = manifest::parse(path, &text);
        self.foreign.extend(parsed.problems);
        parsed.manifest.map(|manifest| SimModel::of(&manifest))
    }

    fn variant(&mut self, key: &str, raw: &RawVariant) -> SimVariant {
        let at = |name: &str| format!("{key}.{name}");
        self.check.name(&at("name"), &raw.name);
        let accuracy = self.check.number(&at("accuracy"), raw.accuracy, 0.0..=1.0, "as a fraction");
        let sizes = raw.macs.is_some() || raw.traffic_bytes.is_some() || raw.precision.is_some();
        if raw.grid.is_some() && (sizes || raw.units.is_some()) {
            self.complain(&at("grid"), "excludes macs, traffic_bytes, precision and units: it was measured");
        }
        let mut cost = |name: &str, value: Option<u64>| match value {
            None if raw.grid.is_none() => {
                self.complain(&at(name), "must be there, unless the variant has a grid");
                0
            }
            None => 0,
            Some(value) => self.check.whole(&at(name), value, 1..=MAX_COST, "per item"),
        };
        let (macs, traffic) = (cost("macs", raw.macs), cost("traffic_bytes", raw.traffic_bytes));
        let every = || vec![UnitKind::Cpu, UnitKind::Gpu, UnitKind::Npu];
        if raw.units.as_ref().is_some_and(Vec::is_empty) {
            self.complain(&at("units"), "must name at least one kind: cpu, gpu or npu");
        }
        if raw.grid.is_none() && raw.footprint_mb.is_none() {
            self.complain(&at("footprint_mb"), "must be there: memory of the loaded variant");
        }
        let footprint_mb = self.check.number(
            &at("footprint_mb"),
            raw.footprint_mb.unwrap_or(1.0),
            0.001..=1e6,
            "MB (1 MB = 1 000 000 bytes)",
        );
        SimVariant {
            name: raw.name.clone(),
            accuracy: Ppm::from_fraction(accuracy),
            work: Work::of_size(macs, traffic, raw.precision.unwrap_or(Precision::Fp32), 1),
            footprint: Bytes::from_f64(footprint_mb * 1e6),
            kinds: raw.units.clone().unwrap_or_else(every),
        }
    }

    fn trace(&mut self, i: usize, raw: &RawStream) -> Option<Trace> {
        let key = format!("stream[{i}].trace");
        if raw.arrival != RawArrival::Trace {
            if raw.trace.is_some() {
                self.complain(&key, "needs arrival = \"trace\"");
            }
            return None;
        }
        let Some(path) = &raw.trace else {
            self.complain(&key, "must be there with arrival = \"trace\": a CSV file");
            return Some(Trace::new());
        };
        let path = self.check.path(&key, path);
        Some(trace::read(&path).unwrap_or_else(|problem| {
            self.foreign.push(problem);
            Trace::new()
        }))
    }

    /// Length of the workload: as given, or until everything written down has come.
    fn seconds(&mut self, raw: &RawFile, traces: &[Option<Trace>]) -> f64 {
        if let Some(seconds) = raw.workload.seconds {
            return self.check.number("workload.seconds", seconds, 0.001..=MAX_SECONDS, "s");
        }
        let mut longest = 0.001_f64;
        for (i, (stream, trace)) in raw.stream.iter().zip(traces).enumerate() {
            let last = trace.as_ref().map(|trace| trace.values().filter_map(|moments| moments.last()).max());
            let end = match (stream.until_s, last) {
                (Some(until), _) => until,
                // A microsecond after the last, for the end is the first moment without requests.
                (None, Some(last)) => stream.from_s + last.map_or(0.0, |last| last.as_secs_f64()) + 1e-6,
                (None, None) => {
                    let message = format!("must be there: stream[{i}] has no until_s");
                    self.complain("workload.seconds", &message);
                    continue;
                }
            };
            longest = longest.max(end);
        }
        longest.clamp(0.001, MAX_SECONDS)
    }

    fn stream(&mut self, i: usize, raw: &RawStream, trace: Option<Trace>, names: &Names<'_>) -> Vec<Stream> {
        let key = |name: &str| format!("stream[{i}].{name}");
        let model = self.stream_model(&key("model"), raw.model.as_deref(), names);
        let from = self.check.number(&key("from_s"), raw.from_s, 0.0..=MAX_SECONDS, "s");
        let until = self.check.optional(&key("until_s"), raw.until_s, 0.0..=MAX_SECONDS, "s");
        let until = until.unwrap_or(names.seconds);
        if until <= from {
            let message = format!("must be below the stream's end ({until} s)");
            self.complain(&key("from_s"), &message);
        }
        if until > names.seconds {
            let message = format!("must be at most workload.seconds ({})", names.seconds);
            self.complain(&key("until_s"), &message);
        }
        let deadline = self.check.optional(&key("deadline_ms"), raw.deadline_ms, 0.01..=3_600_000.0, "ms");
        let min_accuracy =
            self.check.optional(&key("min_accuracy"), raw.min_accuracy, 0.0..=1.0, "as a fraction");
        let stream = |class, arrivals, spikes| Stream {
            app: AppId(raw.app),
            class,
            model,
            items: raw.items,
            deadline: deadline.map(|ms| Nanos::from_secs_f64(ms / 1e3)),
            min_accuracy: min_accuracy.map(Ppm::from_fraction),
            quitters: 0.0,
            patience: Nanos::ZERO,
            from: at_s(from),
            until: at_s(until.max(from)),
            arrivals,
            spikes,
        };
        self.check.count(&key("items"), raw.items, 1..=4096);
        if let Some(trace) = trace {
            let classes = self.trace_classes(i, raw, trace, names.budgets);
            let streams = classes.into_iter();
            return streams
                .map(|(class, moments)| stream(class, Arrivals::Trace(moments.into()), Vec::new()))
                .collect();
        }
        let class = match &raw.class {
            Some(name) => self.class(&key("class"), name, names.budgets),
            None => Some(self.under.map_or(ClassId(0), |under| {
                let model = names.models.get(model.index()).map_or("", |source| &source.model.name);
                (under.class_of)(AppId(raw.app), model)
            })),
        };
        let spikes = self.spikes(i, raw);
        let Some(arrivals) = self.arrivals(i, raw, until - from) else { return Vec::new() };
        class.map(|class| stream(class, arrivals, spikes)).into_iter().collect()
    }

    fn stream_model(&mut self, key: &str, name: Option<&str>, names: &Names<'_>) -> ModelId {
        let models = names.models;
        let known = || models.iter().map(|model| model.model.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = match name {
            None if names.usual.is_some() => names.usual,
            None => {
                self.complain(key, &format!("must name one of the models: {}", known()));
                None
            }
            Some(name) => {
                let found = models.iter().position(|model| model.model.name == name);
                if found.is_none() {
                    self.complain(key, &format!("no such model; there are: {}", known()));
                }
                found
            }
        };
        ModelId::at(found.unwrap_or(0))
    }

    fn class(&mut self, key: &str, name: &str, budgets: &Budgets) -> Option<ClassId> {
        let found = class_named(name, budgets);
        if found.is_none() {
            let classes = class_names(budgets);
            let message = match self.under {
                None => format!("no such class; there are: {classes}"),
                Some(under) => format!(
                    "no such class in {0}; there are: {classes}; add a [[class]] to {0}, or name one of these here",
                    under.file.display()
                ),
            };
            self.complain(key, &message);
        }
        found
    }

    /// The classes of a trace's rows, all or the one that the stream takes.
    fn trace_classes(
        &mut self,
        i: usize,
        raw: &RawStream,
        trace: Trace,
        budgets: &Budgets,
    ) -> Vec<(ClassId, Vec<Nanos>)> {
        let key = |name: &str| format!("stream[{i}].{name}");
        let others = [
            ("rate_hz", raw.rate_hz.is_some()),
            ("jitter_ms", raw.jitter_ms.is_some()),
            ("burst", raw.burst.is_some()),
            ("spike", !raw.spike.is_empty()),
        ];
        for (name, _) in others.iter().filter(|(_, there)| *there) {
            self.complain(&key(name), "excluded by arrival = \"trace\": a trace is as it was recorded");
        }
        let wanted = raw.class.as_ref().map(|name| self.class(&key("class"), name, budgets));
        let mut found = Vec::new();
        for (name, moments) in trace {
            match (class_named(&name, budgets), wanted) {
                (Some(class), None) => found.push((class, moments)),
                (Some(class), Some(Some(wanted))) if class == wanted => found.push((class, moments)),
                (_, Some(_)) => {}
                (None, None) => {
                    let classes = class_names(budgets);
                    let whose = self
                        .under
                        .map_or("the workload's".to_owned(), |under| format!("{}'s", under.file.display()));
                    let message = format!("has rows of class `{name}`; {whose} classes are: {classes}");
                    self.complain(&key("trace"), &message);
                }
            }
        }
        found
    }

    fn arrivals(&mut self, i: usize, raw: &RawStream, lasting_s: f64) -> Option<Arrivals> {
        let key = |name: &str| format!("stream[{i}].{name}");
        let Some(rate) = raw.rate_hz else {
            self.complain(&key("rate_hz"), "must be there: requests per second, on average");
            return None;
        };
        let rate = self.check.number(&key("rate_hz"), rate, 0.0001..=1e6, "requests per second");
        if rate * lasting_s > MAX_REQUESTS {
            self.complain(&key("rate_hz"), &format!("makes more than {MAX_REQUESTS:e} requests"));
        }
        if raw.jitter_ms.is_some() && raw.arrival != RawArrival::Periodic {
            self.complain(&key("jitter_ms"), "needs arrival = \"periodic\"");
        }
        if raw.burst.is_some() && raw.arrival != RawArrival::Bursts {
            self.complain(&key("burst"), "needs arrival = \"bursts\"");
        }
        let jitter = self.check.number(&key("jitter_ms"), raw.jitter_ms.unwrap_or(0.0), 0.0..=60_000.0, "ms");
        Some(match raw.arrival {
            RawArrival::Periodic => Arrivals::Periodic {
                period: Nanos::from_secs_f64(rate.recip()),
                jitter: Nanos::from_secs_f64(jitter / 1e3),
            },
            RawArrival::Bursts => {
                if raw.burst.is_none() {
                    self.complain(&key("burst"), "must be there with arrival = \"bursts\": requests at once");
                }
                let size = self.check.count(&key("burst"), raw.burst.unwrap_or(1), 1..=65_536);
                Arrivals::Bursts { every: Nanos::from_secs_f64(f64::from(size) / rate), size }
            }
            RawArrival::Poisson | RawArrival::Trace => Arrivals::Poisson { per_s: rate },
        })
    }

    fn spikes(&mut self, i: usize, raw: &RawStream) -> Vec<Spike> {
        let key = |s: usize, name: &str| format!("stream[{i}].spike[{s}].{name}");
        self.check.bounded(&format!("stream[{i}].spike"), raw.spike.len(), MAX_ENTRIES);
        let spikes = raw.spike.iter().take(MAX_ENTRIES).enumerate().map(|(s, spike)| {
            let from = self.check.number(&key(s, "from_s"), spike.from_s, 0.0..=MAX_SECONDS, "s");
            let until = self.check.number(&key(s, "until_s"), spike.until_s, 0.0..=MAX_SECONDS, "s");
            if until <= from {
                let message = format!("must be above from_s ({from})");
                self.complain(&key(s, "until_s"), &message);
            }
            let factor = self.check.number(&key(s, "factor"), spike.factor, 0.001..=1000.0, "times the rate");
            Spike { from: at_s(from), until: at_s(until), factor }
        });
        spikes.collect()
    }
}

/// What a stream may refer to.
struct Names<'a> {
    models: &'a [ModelSource],
    /// The model of a stream that names none.
    usual: Option<usize>,
    budgets: &'a Budgets,
    seconds: f64,
}

fn class_named(name: &str, budgets: &Budgets) -> Option<ClassId> {
    let found = budgets.classes.iter().position(|class| class.name == name)?;
    u16::try_from(found).ok().map(ClassId)
}

fn class_names(budgets: &Budgets) -> String {
    budgets.classes.iter().map(|class| class.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn at_s(seconds: f64) -> Timestamp {
    Timestamp::ZERO.after(Nanos::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests;
