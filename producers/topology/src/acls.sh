#!/bin/sh
# Made by `agentgov topology render acls`: each principal's rights, as topology.yaml asks for them.
# sh acls.sh --bootstrap-server HOST:PORT --command-config admin.properties
set -eu
kafka-acls.sh "$@" --add --allow-principal 'User:alerter' --operation Read --operation Write --topic agent.alert-windows
kafka-acls.sh "$@" --add --allow-principal 'User:alerter' --operation Write --topic agent.alerts --topic agent.rejects
kafka-acls.sh "$@" --add --allow-principal 'User:alerter' --operation Read --topic agent.verdicts --topic governance.controls
kafka-acls.sh "$@" --add --allow-principal 'User:alerter' --operation Read --group agentgov.alerter
kafka-acls.sh "$@" --add --allow-principal 'User:alerter' --operation Describe --group alerter.reader
kafka-acls.sh "$@" --add --allow-principal 'User:alerter' --operation Write --resource-pattern-type prefixed --transactional-id agentgov.alerter-

kafka-acls.sh "$@" --add --allow-principal 'User:approvers' --operation Write --topic agent.actions
kafka-acls.sh "$@" --add --allow-principal 'User:approvers' --operation Read --topic governance.agents --topic governance.keys
kafka-acls.sh "$@" --add --allow-principal 'User:approvers' --operation Describe --group governance.agents.reader --group governance.keys.reader

kafka-acls.sh "$@" --add --allow-principal 'User:auditors' --operation Read --topic agent.actions --topic agent.alerts --topic agent.evaluation-bases --topic agent.rejects --topic agent.verdicts
kafka-acls.sh "$@" --add --allow-principal 'User:auditors' --operation Describe --group agentgov.alerter --group agentgov.audit --group agentgov.evaluator --group agentgov.log-sink

kafka-acls.sh "$@" --add --allow-principal 'User:deployer' --operation Create --operation Describe --operation DescribeConfigs --operation AlterConfigs --topic agent.actions --topic agent.alert-windows --topic agent.alerts --topic agent.evaluation-bases --topic agent.rejects --topic agent.sessions --topic agent.verdicts --topic governance.agents --topic governance.bundles --topic governance.controls --topic governance.keys --topic governance.tools

kafka-acls.sh "$@" --add --allow-principal 'User:evaluator' --operation Read --topic agent.actions --topic governance.agents --topic governance.bundles --topic governance.controls --topic governance.keys --topic governance.tools
kafka-acls.sh "$@" --add --allow-principal 'User:evaluator' --operation Write --topic agent.alerts --topic agent.evaluation-bases --topic agent.rejects --topic agent.verdicts
kafka-acls.sh "$@" --add --allow-principal 'User:evaluator' --operation Read --operation Write --topic agent.sessions
kafka-acls.sh "$@" --add --allow-principal 'User:evaluator' --operation Read --group agentgov.evaluator
kafka-acls.sh "$@" --add --allow-principal 'User:evaluator' --operation Describe --group evaluator.reader
kafka-acls.sh "$@" --add --allow-principal 'User:evaluator' --operation Write --resource-pattern-type prefixed --transactional-id agentgov.evaluator-

kafka-acls.sh "$@" --add --allow-principal 'User:gateways' --operation Write --topic agent.actions

kafka-acls.sh "$@" --add --allow-principal 'User:log-sink' --operation Read --topic agent.actions --topic agent.alerts --topic agent.evaluation-bases --topic agent.rejects --topic agent.verdicts --topic governance.agents --topic governance.bundles --topic governance.keys --topic governance.tools
kafka-acls.sh "$@" --add --allow-principal 'User:log-sink' --operation Read --group agentgov.log-sink

kafka-acls.sh "$@" --add --allow-principal 'User:operators' --operation Write --topic governance.controls

kafka-acls.sh "$@" --add --allow-principal 'User:pdp' --operation Read --operation Write --topic agent.actions
kafka-acls.sh "$@" --add --allow-principal 'User:pdp' --operation Read --topic agent.sessions --topic governance.agents --topic governance.bundles --topic governance.keys --topic governance.tools
kafka-acls.sh "$@" --add --allow-principal 'User:pdp' --operation Describe --group agentgov.decisions

kafka-acls.sh "$@" --add --allow-principal 'User:security' --operation Read --operation Write --topic governance.agents --topic governance.bundles --topic governance.keys --topic governance.tools
kafka-acls.sh "$@" --add --allow-principal 'User:security' --operation Describe --group governance.agents.reader --group governance.bundles.reader --group governance.keys.reader --group governance.tools.reader

kafka-acls.sh "$@" --add --allow-principal 'User:services' --operation Write --topic agent.actions
