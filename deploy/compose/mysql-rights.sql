-- Run once, when the database is made. With these two a replica can find and end the
-- idle transaction of one that was stopped while it held a row; it may end its own
-- account's connections anyway.
GRANT PROCESS ON *.* TO 'flashsale'@'%';
GRANT SELECT ON performance_schema.data_lock_waits TO 'flashsale'@'%';
