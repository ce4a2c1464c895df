// Package k8slock makes locks of objects in the Kubernetes API server, in two ways. A
// grant ends with its lease, even if its holder does not notice: fence every write
// under it.
//
// Both kinds update an object only if it still has the version that was read (the
// server compares resourceVersion). They learn of changes by a watch and never poll. A
// holder renews its lease three times a TTL. Its lease counts from before the request
// that the server granted, less a margin. A waiter counts from when it first saw the
// holder's last renewal, as client-go's leaderelection does. Both use their own
// monotonic clock; the times in the objects are for people. So a holder notices its
// loss before the next one enters, provided that no clock runs a tenth faster than
// another and no process is paused.
//
// Objects are never deleted, because they contain the counter of the tokens. It rises
// with every grant. (resourceVersion is not a token: it counts every write.)
//
// # LeaseLocker
//
// A lock is a Lease of coordination.k8s.io/v1. leaseTransitions is the token.
//
//	lock      holderIdentity = me, leaseTransitions + 1     if it has no holder, or was
//	                                                        unchanged for its duration
//	renew     renewTime = now                               if I am the holder
//	unlock    holderIdentity = none                         if I am the holder
//
// Waiters watch the Lease, and try when it is free. A gate admits one caller of each
// process. There is no order between processes, and a holder does not know who waits.
// leaseTransitions has 32 bits; a Lease at its maximum is refused.
//
// # StockLocker
//
// A lock is a StockLock (deploy/kubernetes/locks/stocklock.yaml). Its status has the holder
// and a queue.
//
//	        append           first, and there is no holder
//	(none) -------> waiting -----------------------> holding ----> (none)
//	                   |        token + 1                    unlock, loss
//	                   +-------> (none)
//	                    cancelled; or first, and silent for a TTL
//
// For each name in use, a process has one goroutine that watches the object and does
// all the writing: concurrent changes of its callers become one update.
//
// Waiters do not renew. If the first waiter does not enter within a TTL, the next
// process drops it, with all other places of its Locker. A Locker that was only slow
// appends its places again.
//
// Grants, take-overs of dead holders' locks, and losses are events on the StockLock, for
// people. One goroutine writes them later, at most one a second for a lock and reason.
//
// Every waiter reads the whole queue at every change. It is for replicas, not for
// thousands of customers: the server refuses the 1001st place.
package k8slock
