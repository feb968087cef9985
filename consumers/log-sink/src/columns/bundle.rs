//! Table `bundles`.

use agentgov_runtime::sink::native::{Bytes, List, Sha256, Text};
use agentgov_schemas::governance::Bundle;

columns! {
    /// Columns of a bundle.
    b: Bundle<'a> {
        "name": Text = b.name,
        "version": Text = b.version,
        "digest": Sha256 = b.digest,
        "environments": List<Text> = &mut b.environments.iter().copied(),
        "files.path": List<Text> = &mut b.files.iter().map(|file| file.path),
        "files.content": List<Bytes> = &mut b.files.iter().map(|file| file.content),
        "policies": List<Text> = &mut b.policies.iter().copied(),
        "pushed_by": Text = b.pushed_by,
    }
}
