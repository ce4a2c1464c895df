// Package mirror keeps a copy of each SKU's stock in etcd, and in each replica a
// view of all copies. The view serves the list of SKUs, single SKUs and the event
// streams without a query to MySQL. They show the SKUs that are listed: announced, by the
// replica's own clock, and not withdrawn. MySQL is the truth: the mirror follows it and
// decides nothing. Package order decides orders.
//
// # Keys
//
//	prefix/<sku>        an Entry: the row's public columns, and its seq
//
// # Writing
//
// Code that has committed a change of a row calls Mirror.Changed. The writer does
// the rest:
//
//	            Changed
//	(current) ----------> marked ----------------> taken: read the key, with its
//	    ^                   ^    due: urgent ones    |    mod revision; then read MySQL
//	    |                   |    first               |
//	    |                   |                        v
//	    |                   +---- the compare --- If ModRevision(key) = as read
//	    |                         failed, or no   Then Put(key, row)
//	    |                         answer             |
//	    +--------------------------------------------+  put, or the entry was the row
//
// A put succeeds only if its writer had read the previous entry before it read
// MySQL. So the entries of a SKU change in the same order as its row in MySQL, whichever
// replicas write them. The replica that made the last commit reads MySQL after it, and
// thus brings that commit to etcd.
//
// The changes of a SKU within a quarter of a second become one put, and several SKUs
// share a transaction. A change is urgent, and written first, if the SKU sells out or
// becomes available again.
//
// # Reading
//
// Each replica has one watch over the prefix, and lists all keys when it opens
// (package etcdwatch). Twice a second it asks etcd for an answer on the watch. While
// the watch is broken or silent, the replica reads MySQL (Catalog).
//
//	              the watch is open, and all keys were listed
//	not current --------------------------------------------> current
//	     ^                                                      |
//	     +------------------------------------------------------+
//	          the watch ended, or no answer came for two seconds
//
// # Healing
//
// A replica may die between its COMMIT and its put. So about every ten seconds each
// replica compares its view with MySQL and marks the entries that differ. It also
// compares after each list, because the view may then lack SKUs; until a comparison
// has found all of them, Mirror.List reports false. An entry that stays newer than
// MySQL is deleted: the database was restored.
package mirror
