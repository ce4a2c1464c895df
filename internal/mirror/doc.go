// Package mirror keeps a copy of each SKU's stock in etcd, and a view of all
// copies in each replica, which lists SKUs and refuses orders for those that are
// sold out, without asking MySQL. MySQL is the truth: the mirror follows it, and
// never decides that a unit is sold. What becomes of an order that the mirror
// does not refuse is left to package order.
//
// # Keys
//
//	prefix/<sku>        an Entry: the row's public columns, and its seq
//	prefix/#compared    the comparer's record
//
// # Writing
//
// Whoever has committed a change of a row says so (Mirror.Changed); the writer
// does the rest:
//
//	            Changed
//	(current) ----------> marked ---------------> taken: know the key's mod revision,
//	    ^                   ^    due: crossings     |    then read MySQL
//	    |                   |    of zero first      |
//	    |                   |                       v
//	    |                   +---- the compare --- If ModRevision(key) = known
//	    |                         failed, or no   Then Put(key, row)
//	    |                         answer          Else Get(key)
//	    +-------------------------------------------+  put, or the entry was the row
//
// A put that succeeds knew of the one before it when it read MySQL. So the rows
// in etcd follow each other as they did in MySQL, whoever writes them, and the
// last commit of each SKU gets there, since its committer reads after it.
//
// # Who notices what was not written
//
// A replica may die between its COMMIT and its put. One replica at a time, the
// comparer, reads the sold-out SKUs from MySQL four times a second, has what
// differs written again, and publishes a record; it goes through all SKUs every
// ten seconds as well. The comparer is whoever has written the record last. The
// others take its place when it falls silent, after half a second to a second:
//
//	           no record for patience, and the compare of the record holds
//	waiting ----------------------------------------------------------------> comparing
//	   ^                 the record is another's: the compare failed              |
//	   +--------------------------------------------------------------------------+
//
// No lease stands behind this, since two comparers do no harm.
//
// # Refusing from memory
//
// All of this must hold (Mirror.SoldOut):
//
//   - the watch is open, and its beginning was listed;
//   - the entry has no units, and this replica has not committed any since;
//   - the entry is not newer than the revision of etcd at which the comparer's
//     last record begins, and the record does not except it;
//   - that revision is less than a second old;
//   - the hashes of the SKU's orders were read from MySQL after the entry's seq was
//     seen, and those of this customer and key are none of them.
//
// How old a revision is cannot be told from when its record came in: a watch may
// lag, and a process may have been stopped. So each replica asks etcd for its
// revision ten times a second, by a linearizable read, and notes when it asked.
// What etcd had not reached then has happened later. The comparer reads MySQL
// after etcd has reached the record's revision; so MySQL said what the record says
// at some time after the last sample that was below it.
//
// # Replays come before refusals
//
// A view lags. Units may have come back and been sold again since the entry that
// it shows, to a buyer who asks again here, under his key. Two rules keep him from
// being refused (Mirror.SoldOut, Mirror.Shown):
//
//	seller:   units come back at seq c when none are left
//	          an entry of seq >= c is in etcd           wait for it, then
//	          COMMIT of the first order from them; its answer
//	refuser:  an order comes; the view says sold out by the entry of revision r
//	          read the key's mod revision, linearizably    begun after the order came
//	          it is r: refuse; else leave the order to the desk
//
// A replay comes after the answer, which comes after the entry of c, which replaced
// the one of r: the refuser finds another revision. The row keeps c (its column
// reopened), since who brought units back may die before he puts the entry.
//
// # What this leaves open
//
// A refusal is true as of at most a second ago; a restock usually ends it within
// some 20 ms, and at this replica's own commit at once.
package mirror
