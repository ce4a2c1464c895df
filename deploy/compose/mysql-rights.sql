-- Run once, when the database is created. With these rights a replica can find and end
-- the idle transaction of a paused replica that blocks a row. Ending connections of its
-- own account needs no further right.
GRANT PROCESS ON *.* TO 'flashsale'@'%';
GRANT SELECT ON performance_schema.data_lock_waits TO 'flashsale'@'%';
