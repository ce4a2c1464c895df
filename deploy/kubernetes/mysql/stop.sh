#!/bin/bash
# Runs before this server is told to end. A primary makes another member the primary first: its
# commits go on there, while one that ends with commits under way takes a minute to end.
set -uo pipefail
here() { mysql --socket=/run/mysqld/mysqld.sock --user=root --connect-timeout=2 -NBe "$1"; }
successor=$(here "SELECT other.member_id FROM performance_schema.replication_group_members own
	JOIN performance_schema.replication_group_members other ON other.member_role = 'SECONDARY' AND other.member_state = 'ONLINE'
	WHERE own.member_id = @@server_uuid AND own.member_role = 'PRIMARY' LIMIT 1")
# It waits 10 s for transactions under way, and then ends them.
[[ -z $successor ]] || here "SELECT group_replication_set_as_primary('$successor', 10)"
