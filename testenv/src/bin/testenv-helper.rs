//! tmp
fn main(){ agentgov_testenv::helper_main(std::env::args().skip(1).collect()) }
