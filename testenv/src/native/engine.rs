//! Engine part: this crate's HTTP server in front of ClickHouse's library.

use super::start::Context;
use crate::helper::HELPER_SUBCOMMAND;
use crate::part::Part;
use crate::supervisor::Launch;

/// Path of the library in the unpacked package.
const LIBRARY_PATH: &str = "package/libchdb.so";

pub(super) fn launch(context: &Context<'_>, port: u16) -> Launch {
    let folder = context.layout.folder(Part::Engine);
    let library = context.installed.folder(Part::Engine).join(LIBRARY_PATH);
    let args = [
        HELPER_SUBCOMMAND.to_owned(),
        "engine".to_owned(),
        "--path".to_owned(),
        folder.join("data").display().to_string(),
        "--port".to_owned(),
        port.to_string(),
        "--library".to_owned(),
        library.display().to_string(),
    ];
    Launch {
        program: context.helper.to_path_buf(),
        args: args.to_vec(),
        env: Vec::new(),
        folder,
        log: context.layout.log(Part::Engine),
        // The engine's threads use CPU in bursts (inserts, merges, queries). At normal priority they would delay the
        // broker and the stages, and so every verdict.
        low_priority: true,
    }
}
