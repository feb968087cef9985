//! The engine: this crate's HTTP server in front of ClickHouse's library.

use super::start::Context;
use crate::helper::HELPER_SUBCOMMAND;
use crate::part::Part;
use crate::supervisor::Launch;

/// The library in the unpacked package.
const LIBRARY: &str = "package/libchdb.so";

pub(super) fn launch(context: &Context<'_>, port: u16) -> Launch {
    let folder = context.layout.folder(Part::Engine);
    let library = context.installed.folder(Part::Engine).join(LIBRARY);
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
        // A burst of its threads, for an insert, a merge or somebody's query, would else hold up the broker and the stages,
        // whose time is that of a decision.
        gives_way: true,
    }
}
