//! tmp
use crate::engine;
/// tmp
pub fn helper_main(args: Vec<String>) {
    let r = engine::serve(&engine::Settings{library: args[0].clone().into(), path: args[1].clone().into(), listen: "127.0.0.1".parse().unwrap(), port: args[2].parse().unwrap()});
    eprintln!("{r:?}");
}
