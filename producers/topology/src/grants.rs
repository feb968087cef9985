//! Grants for ClickHouse as SQL: a role for each stage that writes a store, and a role for readers.
//!
//! The statements are for a real server. The engine of the tests has no users, so no test runs them.

use agentgov_schemas::topology::Topology;

/// Returns the statements in order. `database` is the database of the log.
///
/// They create roles and no users, since the operator manages logins. All processes of a stage must log in as the same user,
/// because each searches `system.processes` for the inserts of the others.
pub fn grants(topology: &Topology, database: &str) -> Vec<String> {
    let mut statements = Vec::new();
    for store in topology.stores.values().map(|store| &store.value) {
        let writer = role(&store.writer.value);
        let on = |table: &str| format!("`{database}`.`{table}`");
        statements.push(format!("CREATE ROLE IF NOT EXISTS `{writer}`"));
        // The writer applies the migrations, and creates the database if it is missing at each start.
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

fn role(owner: &str) -> String {
    format!("agentgov_{}", owner.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_let_only_the_writer_insert_and_nobody_change_or_delete() {
        let statements = grants(&Topology::embedded().unwrap(), "log");
        let tables = 14;
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
