//! `wattctl deploy` and `wattctl rollout`.

use crate::args::{AskArgs, DeployArgs};
use crate::terminal::{print, print_json};
use crate::{Done, Failure};
use anyhow::{Context as _, anyhow};
use std::path::Path;
use std::time::Duration;
use wattd::api::backend::Accepted;
use wattd::core::rollout::Stage;
use wattd::ctl::ask;
use wattd::ctl::rollout::{self, RolloutStatus, Rollouts, StepStatus};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Shows the versions.
pub(crate) async fn rollout(args: &AskArgs) -> Done {
    let rollouts: Rollouts = ask::get(&args.at.socket, ask::ROLLOUT).await?;
    if args.json { print_json(&rollouts) } else { print(&rollout::show(&rollouts)) }
}

/// Orders a version in or back, and waits until it is checked, or until its end.
pub(crate) async fn deploy(args: &DeployArgs) -> Done {
    let socket = &args.ask.at.socket;
    let order = match (&args.folder, &args.rollback) {
        (Some(folder), _) => {
            let whole = folder.canonicalize().with_context(|| folder.display().to_string());
            serde_json::json!({ "folder": whole.map_err(Failure::Input)?, "now": args.now })
        }
        (None, model) => serde_json::json!({ "rollback": model }),
    };
    let accepted: Accepted = ask::post(socket, ask::DEPLOY, &order).await?;
    let watch = async {
        loop {
            let status = of(socket, &accepted).await?;
            let stage = status.trial.as_ref().map(|trial| trial.stage);
            let checked = stage.is_some_and(|stage| stage != Stage::Verify);
            if stage.is_none() || (checked && args.wait.is_none() && args.folder.is_some()) {
                return Ok::<RolloutStatus, Failure>(status);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let status = match args.wait {
        None => watch.await?,
        Some(limit) => tokio::time::timeout(limit, watch).await.map_err(|_| {
            anyhow!("not done after {}; it goes on: wattctl rollout", humantime::format_duration(limit))
        })??,
    };
    let last = status.steps.last().cloned();
    let only = Rollouts { models: vec![status] };
    if args.ask.json {
        print_json(&only)?
    } else {
        print(&rollout::show(&only))?
    }
    match last {
        Some(StepStatus { stage: Stage::RolledBack, version, reason, .. })
            if args.folder.is_some() && version == accepted.version =>
        {
            let reason = reason.unwrap_or_default();
            Err(anyhow!("version {version} of {} was taken back: {reason}", accepted.model).into())
        }
        _ => Ok(()),
    }
}

async fn of(socket: &Path, accepted: &Accepted) -> Result<RolloutStatus, Failure> {
    let rollouts: Rollouts = ask::get(socket, ask::ROLLOUT).await?;
    let found = rollouts.models.into_iter().find(|model| model.model == accepted.model);
    found.ok_or_else(|| anyhow!("wattd knows no model {} any more", accepted.model).into())
}
