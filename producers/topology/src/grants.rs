//! Who may do what in ClickHouse, as SQL: a role for each stage that fills a store, and one for those who read.
//!
//! Rendered for a real server. The engine that tests run on has no users, so no test runs these statements.

use agentgov_schemas::topology::Topology;

/// The statements, in order. `database` is the one that holds the log.
///
/// Roles, not users: who logs in with which password is the operator's to say. All processes of a stage must log in as one
/// user, because each looks for the inserts of the others in `system.processes`.
pub fn grants(topology: &Topology, database: &str) -> Vec<String> {
    let mut statements = Vec::new();
    for store in topology.stores.values().map(|store| &store.value) {
        let writer = role(&store.writer.value);
        let on = |table: &str| format!("`{database}`.`{table}`");
        statements.push(format!("CREATE ROLE IF NOT EXISTS `{writer}`"));
        // It applies the migrations, and asks for the database each time that it starts.
        statements.push(format!("GRANT CREATE DATABASE, CREATE TABLE ON `{database}`.* TO `{writer}`"));
        for table in store.tables.keys() {
            statements.push(format!("GRANT SELECT, INSERT ON {} TO `{writer}`", on(table)));
        }
        statements.push(format!("GRANT SELECT ON system.processes TO `{writer}`"));
        let reader = role("reader");
        statements.push(format!("CREATE ROLE IF NOT EXISTS `{reader}`"));
        for table in store.tables.keys() {
            statements.push(format!("GRANT SELECT ON {} TO `{reader}`", on(table)));
        }
    }
    statements
}

fn role(of: &str) -> String {
    format!("agentgov_{}", of.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_writer_writes_and_nobody_may_change_or_delete_a_row() {
        let statements = grants(&Topology::embedded().unwrap(), "log");
        let tables = 13;
        assert_eq!(statements.len(), 4 + 2 * tables, "{statements:#?}");
        assert!(
            statements.contains(&"GRANT SELECT, INSERT ON `log`.`actions` TO `agentgov_log_sink`".to_owned())
        );
        assert!(statements.contains(&"GRANT SELECT ON `log`.`actions` TO `agentgov_reader`".to_owned()));
        for statement in &statements {
            let words = ["ALTER", "DELETE", "DROP", "TRUNCATE", "ALL"];
            assert!(!words.iter().any(|word| statement.split([' ', ',']).any(|w| w == *word)), "{statement}");
            assert!(!statement.contains("INSERT") || statement.contains("log_sink"), "{statement}");
        }
    }
}
