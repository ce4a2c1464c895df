#!/bin/bash
# MySQL's image runs this once, when it creates the database. docs/databases.md says what
# the service needs each right for. Ending connections of its own account needs none.
MYSQL_PWD=$MYSQL_ROOT_PASSWORD mysql --protocol=socket --user=root <<-END
	CREATE USER 'flashsale_owner'@'%' IDENTIFIED BY '$FLASHSALE_MYSQL_OWNER_PASSWORD';
	GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX ON flashsale.* TO 'flashsale_owner'@'%';
	CREATE USER 'flashsale'@'%' IDENTIFIED BY '$FLASHSALE_MYSQL_PASSWORD';
	GRANT SELECT, INSERT, UPDATE ON flashsale.* TO 'flashsale'@'%';
	GRANT PROCESS ON *.* TO 'flashsale'@'%';
	GRANT SELECT ON performance_schema.data_lock_waits TO 'flashsale'@'%';
END
