// Package mirror keeps a copy of each SKU's stock in etcd, and in each replica a
// view of all copies. The view feeds the list of SKUs, the reading of one SKU and
// the streams of events, without a query to MySQL. MySQL is the truth: the mirror
// follows it, and decides nothing. Orders are decided by package order.
//
// # Keys
//
//	prefix/<sku>        an Entry: the row's public columns, and its seq
//
// # Writing
//
// Whoever has committed a change of a row calls Mirror.Changed. The writer does
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
// A put that succeeds was made by a writer that had read the previous entry before
// it read MySQL. So the entries of a SKU follow each other in etcd as its rows did
// in MySQL, whichever replicas write them. The last commit of each SKU gets there,
// since the replica that made it reads MySQL afterwards.
//
// Writes are few: the changes of a SKU within a quarter of a second become one put, and
// several SKUs share a transaction. A change is urgent when the view shows units
// where there are none, or none where there are some. It is written before others.
//
// # Reading
//
// Each replica opens one watch over the prefix, and then lists all keys. Twice a
// second it asks etcd for an answer on the watch. A watch that broke, was compacted
// or fell silent is opened again, with a new list; until then the replica reads
// MySQL (Catalog).
//
//	              the watch is open, and all keys were listed
//	not current --------------------------------------------> current
//	     ^                                                      |
//	     +------------------------------------------------------+
//	          the watch ended, or no answer came for two seconds
//
// # Healing
//
// A replica may die between its COMMIT and its put. So each replica compares its
// view with MySQL every ten seconds or so, and has the entries written that
// differ. It does so as well when its view may lack SKUs, which is the case after
// each list; until a comparison finds all of them, Mirror.List answers nothing. An
// entry that stays newer than MySQL is deleted: the database was restored.
package mirror
