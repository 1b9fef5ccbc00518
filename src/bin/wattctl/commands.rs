//! The commands: from arguments to the library and back to the terminal.

use crate::Failure;
use crate::args::{
    AskArgs, Cli, Command, GenerateArgs, Generated, InferArgs, LoadArgs, ProfileArgs, ReportArgs, StatusArgs,
    WishArgs,
};
use crate::terminal::{print, print_json};
use crate::{Done, board, deploy, explain, machine, simulate, whatif};
use anyhow::{Context as _, anyhow};
use clap::CommandFactory as _;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use wattd::ctl::ask;
use wattd::ctl::load::inputs::SampleInputs;
use wattd::ctl::load::scenario::{self, Scenario, SimpleFlags};
use wattd::ctl::load::session::{self, Options};
use wattd::ctl::load::target::{Ask, NamedTensor, Picked, Reply};
use wattd::ctl::man;
use wattd::ctl::record::Run;
use wattd::ctl::report::{self, Compared, table};
use wattd::ctl::rpc::Rpc;
use wattd::ctl::show;
use wattd::ctl::status::{Models, Status};
use wattd::model::npy;

/// Largest input file of `infer`.
const INPUT_LIMIT: u64 = 256 << 20;
/// Time between two looks of `--watch` and of `profile`.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Done {
    match cli.command {
        Command::Report(args) => report(&args),
        Command::Board(args) => board::board(&args),
        Command::Check(args) => machine::check(&args),
        Command::Restore(args) => machine::restore(&args),
        Command::Replay(args) => machine::replay(&args),
        Command::SimBoard(args) => machine::sim_board(args),
        Command::Simulate(args) => simulate::simulate(&args),
        Command::Whatif(args) => whatif::whatif(&args),
        Command::Generate(args) => generate(&args),
        other => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .context("starting the runtime")?;
            runtime.block_on(ask_daemon(other))
        }
    }
}

async fn ask_daemon(command: Command) -> Done {
    match command {
        Command::Status(args) => status(&args).await,
        Command::Explain(args) => explain::explain(&args).await,
        Command::Models(args) => models(&args).await,
        Command::Infer(args) => infer(args).await,
        Command::Load(args) => load(args).await,
        Command::Profile(args) => profile(&args).await,
        Command::Deploy(args) => deploy::deploy(&args).await,
        Command::Rollout(args) => deploy::rollout(&args).await,
        // The others need no daemon.
        _ => Ok(()),
    }
}

async fn status(args: &StatusArgs) -> Done {
    loop {
        let status: Status = ask::get(&args.ask.at.socket, ask::STATUS).await?;
        let clear = if args.watch && !args.ask.json { "\x1b[H\x1b[2J" } else { "" };
        match (args.estimators, args.ask.json) {
            (true, true) => print_json(&status.estimators)?,
            (true, false) => print(&format!("{clear}{}", show::estimators(&status)))?,
            (false, true) => print_json(&status)?,
            (false, false) => print(&format!("{clear}{}", show::status(&status)))?,
        }
        if !args.watch {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

async fn models(args: &AskArgs) -> Done {
    let models: Models = ask::get(&args.at.socket, ask::MODELS).await?;
    if args.json { print_json(&models) } else { print(&show::models(&models)) }
}

async fn infer(args: InferArgs) -> Done {
    let socket = &args.ask.at.socket;
    let (picked, sample) = match args.sample {
        Some(item) => {
            let inputs = sample(&args, socket).await?;
            if item >= inputs.len() {
                let message = format!("--sample {item}: the sample has items 0 to {}", inputs.len() - 1);
                return Err(Failure::Input(anyhow!(message)));
            }
            (inputs.items(item, 1), Some(inputs))
        }
        None => {
            let inputs = args.input.iter().map(|text| read_input(text).map_err(Failure::Input));
            (Picked { inputs: inputs.collect::<Result<_, _>>()?, labels: Vec::new() }, None)
        }
    };
    let asked = wish(args.model.clone(), picked.inputs, &args.wishes).map_err(Failure::Input)?;
    let reply = Rpc::connect(socket, 1).await?.infer_in_full(asked).await;
    let (reply, parameters) = match reply {
        Ok(answered) => answered,
        Err(Reply::Rejected { reason, message, request, .. }) => {
            let id = request.map_or_else(String::new, |id| format!(" (request_id {id})"));
            return Err(anyhow!("refused: {reason}: {message}{id}").into());
        }
        Err(Reply::Failed(message)) => return Err(anyhow!(message).into()),
        Err(reply @ Reply::Answer { .. }) => (reply, Vec::new()),
    };
    let Reply::Answer { outputs, .. } = reply else { return Ok(()) };
    let correct = sample.and_then(|inputs| inputs.correct(&outputs, &picked.labels));
    if args.ask.json {
        return print_json(&answer_json(&outputs, &parameters, &picked.labels, correct.as_deref()));
    }
    let mut text = String::new();
    for output in &outputs {
        text.push_str(&show::output(output));
        text.push('\n');
    }
    for (label, correct) in picked.labels.iter().zip(correct.iter().flatten()) {
        text.push_str(&format!("label {label}: {}\n", if *correct { "right" } else { "wrong" }));
    }
    for (name, value) in &parameters {
        text.push_str(&format!("{name} {value}\n"));
    }
    print(&text)
}

fn answer_json(
    outputs: &[NamedTensor],
    parameters: &[(String, String)],
    labels: &[f64],
    correct: Option<&[bool]>,
) -> serde_json::Value {
    let outputs: Vec<_> = outputs
        .iter()
        .map(|output| {
            serde_json::json!({
                "name": output.name,
                "datatype": output.tensor.dtype.wire_name(),
                "shape": output.tensor.shape,
                "data": wattd::model::score::numbers(&output.tensor).ok(),
            })
        })
        .collect();
    let parameters: std::collections::BTreeMap<_, _> = parameters.iter().cloned().collect();
    serde_json::json!({ "outputs": outputs, "parameters": parameters, "labels": labels, "correct": correct })
}

async fn sample(args: &InferArgs, socket: &Path) -> Result<SampleInputs, Failure> {
    let models: Models = ask::get(socket, ask::MODELS).await?;
    let model = models.models.iter().find(|model| model.name == args.model).ok_or_else(|| {
        let names: Vec<&str> = models.models.iter().map(|model| model.name.as_str()).collect();
        Failure::Input(anyhow!("wattd serves no model {:?}; it has {}", args.model, names.join(", ")))
    })?;
    Ok(SampleInputs::open(model, args.models.as_deref(), 1)?)
}

fn read_input(text: &str) -> anyhow::Result<NamedTensor> {
    let (name, path) = text
        .split_once('=')
        .with_context(|| format!("--input {text}: NAME=FILE.npy is right, such as image=picture.npy"))?;
    let file = File::open(path).with_context(|| format!("--input {text}: {path}"))?;
    let tensor = npy::read(BufReader::new(file), INPUT_LIMIT)
        .map_err(|error| anyhow!("--input {text}: {path} {error}"))?;
    Ok(NamedTensor { name: name.to_owned(), tensor })
}

fn wish(model: String, inputs: Vec<NamedTensor>, wishes: &WishArgs) -> anyhow::Result<Ask> {
    let flag = |name: &'static str| move |message: String| anyhow!("--{name}: {message}");
    Ok(Ask {
        model,
        inputs,
        deadline: wishes.deadline_ms.map(scenario::milliseconds).transpose().map_err(flag("deadline-ms"))?,
        min_accuracy: wishes
            .min_accuracy
            .map(scenario::accuracy)
            .transpose()
            .map_err(flag("min-accuracy"))?,
        max_energy_uj: wishes
            .max_energy_mj
            .map(scenario::millijoules)
            .transpose()
            .map_err(flag("max-energy-mj"))?,
        variant: wishes.variant.clone(),
        class: wishes.class.clone(),
    })
}

async fn load(args: LoadArgs) -> Done {
    let scenario = scenario_of(&args).map_err(Failure::Input)?;
    let options = Options {
        socket: args.ask.at.socket.clone(),
        scenario,
        seed: args.seed,
        models: args.models.clone(),
        record: args.record.clone(),
        quiet: args.quiet,
    };
    if let (Some(script), Some(board)) = (&args.disturb, &args.board) {
        let status: Status = ask::get(&args.ask.at.socket, ask::STATUS).await?;
        machine::disturb(&status, board, script)?;
    }
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
        }
    });
    let finished = session::run(options, stop).await?;
    if args.ask.json {
        print_json(&table::summary(&finished.tally))?;
    } else {
        print(&format!("{}\n{}\n", table::phases(&finished.tally), table::comparison(&[&finished.tally])))?;
    }
    for failure in table::failures(&finished.tally) {
        eprintln!("wattctl: {failure}");
    }
    if finished.end.states_missed > 0 {
        eprintln!("wattctl: the daemon's state could not be had {} times", finished.end.states_missed);
    }
    if finished.end.interrupted {
        eprintln!("wattctl: interrupted; what is shown is the part until then");
    }
    if finished.tally.whole.sum(|app| app.served) == 0 {
        return Err(anyhow!("no request was answered").into());
    }
    Ok(())
}

fn scenario_of(args: &LoadArgs) -> anyhow::Result<Scenario> {
    let Some(path) = &args.scenario else {
        let wishes = &args.wishes;
        return Ok(Scenario::simple(SimpleFlags {
            model: args.model.clone().unwrap_or_default(),
            seconds: args.duration.as_secs_f64(),
            rate_hz: args.rate,
            poisson: args.poisson,
            clients: args.clients,
            outstanding: args.outstanding,
            deadline_ms: wishes.deadline_ms,
            min_accuracy: wishes.min_accuracy,
            max_energy_mj: wishes.max_energy_mj,
            variant: wishes.variant.clone(),
            class: wishes.class.clone(),
            batch: args.batch,
        })?);
    };
    let wishes = &args.wishes;
    let given = [
        ("deadline-ms", wishes.deadline_ms.is_some()),
        ("min-accuracy", wishes.min_accuracy.is_some()),
        ("max-energy-mj", wishes.max_energy_mj.is_some()),
        ("variant", wishes.variant.is_some()),
        ("class", wishes.class.is_some()),
    ];
    if let Some((flag, _)) = given.into_iter().find(|(_, given)| *given) {
        return Err(anyhow!(
            "--{flag}: a scenario sets that for each [[app]]; put it into {}",
            path.display()
        ));
    }
    let scenario = Scenario::read(path)?;
    match args.stretch {
        None => Ok(scenario),
        Some(factor) if factor > 0.0 && factor <= 1000.0 => Ok(scenario.stretched(factor)),
        Some(factor) => Err(anyhow!("--stretch {factor}: a factor above 0 and at most 1000 is right")),
    }
}

fn report(args: &ReportArgs) -> Done {
    let read = |path: &Path| Run::read(path).map(Compared::new).map_err(|error| Failure::Input(error.into()));
    let mut compared = vec![read(&args.run)?];
    if let Some(path) = &args.baseline {
        compared.push(read(path)?);
    }
    for (one, path) in compared.iter().zip(std::iter::once(&args.run).chain(&args.baseline)) {
        if one.run.end.as_ref().is_none_or(|end| end.interrupted) {
            eprintln!("wattctl: {}: the run was cut short", path.display());
        }
    }
    if args.svg.is_some() || args.png.is_some() {
        let svg = report::svg(&compared)?;
        if let Some(path) = &args.svg {
            std::fs::write(path, &svg).with_context(|| path.display().to_string())?;
        }
        if let Some(path) = &args.png {
            let png =
                report::png::render(&svg, args.png_scale).map_err(|error| Failure::Input(error.into()))?;
            std::fs::write(path, png).with_context(|| path.display().to_string())?;
        }
    }
    let tallies: Vec<_> = compared.iter().map(|one| &one.tally).collect();
    if args.json {
        let summaries: Vec<_> = tallies.iter().map(|tally| table::summary(tally)).collect();
        return print_json(&summaries);
    }
    print(&format!("{}\n", table::comparison(&tallies)))
}

async fn profile(args: &ProfileArgs) -> Done {
    let socket = &args.ask.at.socket;
    let document = serde_json::json!({ "model": args.model, "missing": args.missing });
    let _: serde_json::Value = ask::post(socket, ask::PROFILE, &document).await?;
    let watch = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let models: Models = ask::get(socket, ask::MODELS).await?;
            if !models.models.iter().any(|model| model.profiling) {
                return Ok::<Models, Failure>(models);
            }
        }
    };
    let models = tokio::time::timeout(args.wait, watch).await.map_err(|_| {
        anyhow!(
            "not done after {}; it goes on, and `wattctl models` shows it",
            humantime::format_duration(args.wait)
        )
    })??;
    let wanted = |name: &str| args.model.as_ref().is_none_or(|model| model == name);
    let models = Models { models: models.models.into_iter().filter(|model| wanted(&model.name)).collect() };
    if args.ask.json { print_json(&models) } else { print(&show::models(&models)) }
}

fn generate(args: &GenerateArgs) -> Done {
    let command = Cli::command();
    std::fs::create_dir_all(&args.folder).with_context(|| args.folder.display().to_string())?;
    match args.what {
        Generated::Man => {
            clap_mangen::generate_to(command, &args.folder)?;
            let page = args.folder.join("wattd.toml.5");
            std::fs::write(&page, man::configuration()).with_context(|| page.display().to_string())?;
        }
        Generated::Completions => {
            for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
                clap_complete::generate_to(shell, &mut Cli::command(), "wattctl", &args.folder)?;
            }
        }
    }
    Ok(())
}
