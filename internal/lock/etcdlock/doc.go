// Package etcdlock is a fair lock between processes, in etcd. A grant ends with its
// lease, even if its holder does not notice: fence every write under it.
//
// # Protocol
//
// A process has one lease. To lock a name, it creates a key under that lease,
//
//	prefix/name/<lease>-<n>        n is never used twice in a process
//
// The keys of a name, ordered by create revision, are its queue. The first key
// holds the lock, and its create revision is the fencing token. Each change is one
// transaction:
//
//	Lock     If CreateRevision(key) = 0             Then Put(key, owner, lease)  Get(prefix/name/)
//	                                                Else Get(prefix/name/)
//	TryLock  If CreateRevision(prefix/name/*) = 0   as Lock
//	Unlock   If CreateRevision(key) = rev           Then Delete(key)             Get(prefix/name/)
//	                                                Else Get(prefix/name/)
//	Evict    as Unlock, for the first key
//
// So a request that arrives late or twice neither creates a second key nor deletes a
// later holder's. In this process, each key belongs to a place:
//
//	        not the first
//	requested --------------> waiting ---------------> gone
//	  |                          |     key or lease ended: Lock queues again
//	  | the answer shows         |     ctx ended: the key is deleted in the background
//	  | it first                 | the view shows it first
//	  +------------+-------------+
//	               v
//	             held ---------------> gone
//	               |     key or lease ended: Lost is closed
//	               | Unlock
//	               v
//	            leaving -------------> gone
//	                     deleted; or ErrLost if the key was gone; or, without an
//	                     answer, deleted in the background
//
// # The view
//
// For each name in use, the Locker keeps a view of the queue: the keys as of one
// revision. Each answer above replaces an older view. One watch on the prefix brings
// all views forward. It starts at the present, because etcd serves a watch that starts
// in the past from a loop that runs every 100 ms. One list of the prefix, read before
// the first event is applied, supplies what came before. Ten thousand watches, one for
// each name, would need three times the memory of the keys.
//
// A stale view delays a grant but never makes a wrong one. Later keys have larger
// revisions, so no key can get in front of one that a view has shown first; that key
// can only disappear. But a view must be complete as of its revision: without an
// earlier deletion, it could show a deleted key as the first. This is why Unlock reads
// the queue, too. It also tells the next waiter of the process without the watch.
//
// The value of the first key names the holder's process and address (Holder). Evict
// deletes that key when another process has found the holder dead or stopped. Until
// the evicted holder's view shows this, only the fence stops its writes.
//
// # Failures
//
// All grants are lost a margin before etcd can end the lease (see package lease). The
// next Lock gets a new lease.
//
// A request that timed out may be applied later. The Locker deletes a key of its lease
// that belongs to no place when the view shows it, and looks for such keys once a TTL.
//
// In a cluster, a request that a dying leader received is never answered, so each
// request has a time-out of a third of the TTL. On a node without a quorum, Lock
// returns at its context's end, and a holder loses its grant before its lease can end.
//
// # Other locks
//
// Try is a single key without a queue; a refusal names the holder. Textbook is the
// client library's mutex, for comparison.
package etcdlock
