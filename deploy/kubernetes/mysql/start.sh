#!/bin/bash
# Runs one MySQL server. group.sh makes it a member of the group.
set -euo pipefail
: "${MYSQL_PASSWORD:?must not be empty}" "${MYSQL_OWNER_PASSWORD:?must not be empty}" "${MYSQL_GROUP_PASSWORD:?must not be empty}"
((${#MYSQL_GROUP_PASSWORD} <= 32)) || { echo "MYSQL_GROUP_PASSWORD has more than the 32 characters that MySQL allows for replication"; exit 1; }
# quoted prints a text as SQL has it.
quoted() {
	local text=${1//\\/\\\\}
	printf '%s' "'${text//"'"/"''"}'"
}
data=/var/lib/mysql/data
if [[ ! -d $data ]]; then
	# The folder gets its name when it is whole: a start that was killed begins again.
	rm -rf "$data.new"
	echo "CREATE DATABASE flashsale;" >/run/mysqld/database.sql
	mysqld --initialize-insecure --init-file=/run/mysqld/database.sql --datadir="$data.new" --secure-file-priv=NULL --log-error-verbosity=1
	mv "$data.new" "$data"
fi
# The accounts are the same on each server, and are not replicated. root has no password, and
# reaches the server through its socket only, which is in this pod. docs/databases.md says what
# the service needs each right for.
(umask 077 && cat >/run/mysqld/accounts.sql <<-END
	SET sql_log_bin=0;
	CREATE USER IF NOT EXISTS 'flashsale_owner'@'%';
	ALTER USER 'flashsale_owner'@'%' IDENTIFIED BY $(quoted "$MYSQL_OWNER_PASSWORD");
	GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX ON flashsale.* TO 'flashsale_owner'@'%';
	CREATE USER IF NOT EXISTS 'flashsale'@'%';
	ALTER USER 'flashsale'@'%' IDENTIFIED BY $(quoted "$MYSQL_PASSWORD");
	GRANT SELECT, INSERT, UPDATE ON flashsale.* TO 'flashsale'@'%';
	GRANT PROCESS ON *.* TO 'flashsale'@'%';
	GRANT SELECT ON performance_schema.data_lock_waits TO 'flashsale'@'%';
	GRANT SELECT ON performance_schema.replication_group_members TO 'flashsale'@'%';
	CREATE USER IF NOT EXISTS 'member'@'%';
	ALTER USER 'member'@'%' IDENTIFIED BY $(quoted "$MYSQL_GROUP_PASSWORD");
	GRANT REPLICATION SLAVE, BACKUP_ADMIN, CONNECTION_ADMIN, GROUP_REPLICATION_STREAM ON *.* TO 'member'@'%';
	GRANT SELECT ON performance_schema.replication_group_members TO 'member'@'%';
	GRANT SELECT ON performance_schema.replication_connection_status TO 'member'@'%';
	-- Until this server is in the group, nobody may write: with a transaction that the group lacks,
	-- it could never join. Group Replication turns this off on the primary.
	SET GLOBAL super_read_only=ON;
END
)
options=(
	--datadir="$data" --socket=/run/mysqld/mysqld.sock --pid-file=/run/mysqld/mysqld.pid --init-file=/run/mysqld/accounts.sql
	--secure-file-priv=NULL --mysqlx=OFF --skip-name-resolve --log-error=stderr
	--server-id=$((${HOSTNAME##*-} + 1)) --report-host="$HOSTNAME.mysql"
	# Each commit is synced to disk, also in the binary log.
	--innodb-flush-log-at-trx-commit=1 --log-bin=binlog --sync-binlog=1 --binlog-expire-logs-seconds=86400
	--gtid-mode=ON --enforce-gtid-consistency=ON
	--transaction-isolation=READ-COMMITTED --character-set-server=utf8mb4 --default-time-zone=+00:00
	# 12 replicas x (32 + 8 connections), and a reserve.
	--max-connections=600 --innodb-buffer-pool-size="$INNODB_BUFFER_POOL_SIZE"
	# A server whose volume was lost copies another one, whose binary logs do not go back to the start.
	--plugin-load-add=group_replication.so --plugin-load-add=mysql_clone.so
	--group-replication-group-name="$GROUP_NAME"
	--group-replication-local-address="$HOSTNAME.mysql:33061"
	--group-replication-group-seeds=mysql-0.mysql:33061,mysql-1.mysql:33061,mysql-2.mysql:33061
	--group-replication-start-on-boot=OFF
	# MySQL does not send passwords in the clear. Each server makes its certificate itself.
	--group-replication-recovery-use-ssl=ON
	# A server that is gone is expelled as soon as it is noticed; the default adds 5 s without commits.
	--group-replication-member-expel-timeout=0
	# group.sh brings a server back that was expelled, or that has lost the majority.
	--group-replication-autorejoin-tries=0 --group-replication-unreachable-majority-timeout=10
)
exec mysqld "${options[@]}"
