// Package etcdlock is a fair lock between processes, in etcd. A grant ends with its
// lease, whatever its holder believes: what is written under it must be fenced.
//
// # Protocol
//
// A process has one lease. To lock a name, it creates a key under that lease,
//
//	prefix/name/<lease>-<n>        n is never used twice in a process
//
// The keys of a name, ordered by create revision, are its queue. The first key
// holds the lock, and its create revision is the fencing token. Each change is one
// transaction that compares a create revision:
//
//	Lock     If CreateRevision(key) = 0             Then Put(key, owner, lease)  Get(prefix/name/)
//	                                                Else Get(prefix/name/)
//	TryLock  If CreateRevision(prefix/name/*) = 0   as Lock
//	Unlock   If CreateRevision(key) = rev           Then Delete(key)             Get(prefix/name/)
//	                                                Else Get(prefix/name/)
//	Evict    as Unlock, for the first key
//
// A request that arrives late or twice therefore neither creates a second key nor
// deletes a later holder's. In this process, each key belongs to a place:
//
//	        not the first
//	asked ------------------> waiting ---------------> gone
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
// revision. The answer of every transaction above replaces an older view. One
// watch on the prefix feeds the views of all names with the changes in between,
// in the order of their revisions.
//
// The watch starts at the present (revision 0). A watch that starts at a revision
// in the past is served by a loop in etcd that runs every 100 ms. After the watch
// has started, and before its first event is applied, one list of the prefix
// supplies what came before. Ten thousand watches, one for each name, would take
// three times the memory of their queues in etcd.
//
// A stale view delays a grant but never makes a wrong one. Later keys have larger
// revisions, so no key can get in front of one that a view has shown first. That
// key can only disappear. But a view must be complete as of its revision: if one of
// two deletions were missing, it could show a deleted key as the first. This is why
// the answer of Unlock contains the queue, too. It also tells the next waiter in
// the same process of its turn without the watch.
//
// The value of the first key names the holder's process and address (Holder). Evict
// deletes that key when another process has found the holder dead or stopped. The
// holder learns of this by its own view; until then, only the fence stops its
// writes.
//
// # The lease
//
// Package lease renews the lease three times a TTL and counts from before each
// request. All grants are lost a margin before the earliest time at which etcd can
// end the lease. The next Lock gets a new lease.
//
// # Requests without an answer
//
// A request that timed out may be applied later. When the view shows a key of our
// lease that belongs to no place, the key is deleted. Once a TTL, all keys of the
// lease are compared with the places as well.
//
// # A cluster
//
// When one of three nodes fails, locks are still granted; after a failure of the
// leader, once a new one is elected. A request that a dying leader received is
// never answered, so no request waits longer than a third of the TTL. On a node
// without a quorum nothing is granted: Lock returns at its context's end, and a
// holder loses its grant before its lease can end.
//
// # Other locks
//
// Try is a single key without a queue; a refusal names the holder. Textbook is the
// client library's mutex, for comparison.
package etcdlock
