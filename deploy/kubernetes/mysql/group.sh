#!/bin/bash
# Keeps this server in the group: it joins a group that exists, or founds it. One server alone
# may found the group, and only when all three answer and none is in a group: the one that has
# every transaction of the others, and of several such servers the first.
set -uo pipefail
trap 'exit 0' TERM # the first process of a container has no other way to end
peers=(0 1 2)
own=${HOSTNAME##*-}

here() { mysql --socket=/run/mysqld/mysqld.sock --user=root --connect-timeout=2 -NBe "$1"; }
there() { MYSQL_PWD=$MYSQL_GROUP_PASSWORD timeout 10 mysql --host="mysql-$1.mysql" --user=member --connect-timeout=2 -NBe "$2"; }

password=${MYSQL_GROUP_PASSWORD//\\/\\\\}
password=${password//\'/\'\'}

state="IFNULL((SELECT member_state FROM performance_schema.replication_group_members WHERE member_id IN (@@server_uuid, '')), 'OFFLINE')"
# Those that were received and not applied yet count too: a server applies them when it starts
# again. GTIDs have one server's transactions on each line.
transactions="REPLACE(CONCAT_WS(',', @@GLOBAL.gtid_executed,
	(SELECT received_transaction_set FROM performance_schema.replication_connection_status WHERE channel_name = 'group_replication_applier')), '\n', '')"

# found succeeds if this server has to found the group, and prints why not otherwise.
found() {
	local mine peer answer theirs
	mine=$(here "SELECT $transactions") || return 1
	for peer in "${peers[@]}"; do
		[[ $peer != "$own" ]] || continue
		# The same answer must have both: exists takes a server that did not answer for one without a group.
		answer=$(there "$peer" "SELECT $state, $transactions") || { echo "waiting for mysql-$peer to answer"; return 1; }
		[[ $answer == OFFLINE$'\t'* || $answer == ERROR$'\t'* ]] || { echo "mysql-$peer is in a group"; return 1; }
		theirs=${answer#*$'\t'}
		case $(here "SELECT CONCAT(GTID_SUBSET('$theirs', '$mine'), GTID_SUBSET('$mine', '$theirs'))") in
		10) ;; # this server has more
		11) ((own < peer)) || { echo "mysql-$peer founds the group"; return 1; } ;;
		01) echo "mysql-$peer founds the group: it has more transactions"; return 1 ;;
		00) echo "mysql-$peer and mysql-$own each have transactions that the other lacks, so no group is founded: compare their data, choose the server to keep, and delete the volume of the other"; return 1 ;;
		*) echo "waiting for this server to answer"; return 1 ;;
		esac
	done
}

# exists succeeds if a server is in a group.
exists() {
	local peer
	for peer in "${peers[@]}"; do
		[[ $peer == "$own" || $(there "$peer" "SELECT $state") != ONLINE ]] || return 0
	done
	return 1
}

said=
say() { [[ $1 == "$said" ]] || echo "$1"; said=$1; }

while sleep 1; do
	now=$(here "SELECT $state") || { say "waiting for this server to start"; continue; }
	case $now in
	ONLINE | RECOVERING) say "$now"; continue ;;
	ERROR) here "STOP GROUP_REPLICATION" ;;
	esac
	# A bootstrap that was interrupted may have left its option on, which would found a second group.
	here "SET GLOBAL group_replication_bootstrap_group = OFF, GLOBAL offline_mode = OFF;
		CHANGE REPLICATION SOURCE TO SOURCE_USER = 'member', SOURCE_PASSWORD = '$password' FOR CHANNEL 'group_replication_recovery'" || continue
	if exists; then
		say "joining the group"
		here "START GROUP_REPLICATION" # it fails while the others still count this server's last run as a member
	elif why=$(found); then
		say "founding the group"
		here "SET GLOBAL group_replication_bootstrap_group = ON; START GROUP_REPLICATION"
		here "SET GLOBAL group_replication_bootstrap_group = OFF"
	else
		say "$why"
	fi
done
