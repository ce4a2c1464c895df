// Package k8slock makes locks of objects in Kubernetes' API server, in two ways.
// It knows that server alone, guarantees what its Capabilities say, and leaves it
// to others to show a grant's token to the store that is written to: an expired
// holder may not know that it is one.
//
// Both write an object only if it still is of the version that was read (the
// server compares resourceVersion), hear of changes by a watch, and never poll.
// A holder renews its lease three times a TTL. It counts from before the request
// that the server granted it by, less a margin; whoever waits counts from when it
// has first seen the holder's last sign of life, as client-go's leaderelection
// does. Both use their own monotonic clock: the times inside the objects are for
// people, and the clocks of two machines are never compared. So the holder knows
// of its end before the next one enters, if neither clock runs a tenth faster
// than the other, and no process is paused.
//
// An object is never deleted: it has the count that tokens are from, which rises
// with every grant, also to the same process. (The resourceVersion is not one:
// it orders the versions of one object, and counts whatever else is written.)
//
// # LeaseLocker
//
// A Lease of coordination.k8s.io/v1. leaseTransitions is the token.
//
//	lock      holderIdentity = me, leaseTransitions + 1     if nobody has it, or it was
//	                                                        seen unchanged for its length
//	renew     renewTime = now                               if it is mine
//	unlock    holderIdentity = none                         if it is mine
//
// Whoever waits watches the Lease, and tries when it is free: one from each
// process, since a gate lets a process's callers through one at a time. The
// first has it; there is no order between processes, and a holder does not know
// who waits. leaseTransitions has 32 bits, and a Lease with no more to count is
// refused.
//
// # StockLocker
//
// A StockLock (deploy/kubernetes/stocklock.yaml), whose status has the holder and
// a queue.
//
//	        append           first, and nobody holds
//	(none) -------> waiting -----------------------> holding ----> (none)
//	                   |        token + 1                    unlock, loss
//	                   +-------> (none)
//	                    given up; or first, and silent for a TTL
//
// A process has one goroutine for each name that is in use, with one watch. It
// does all the writing: what its callers want at the same time is one update, so
// that a free lock is appended to and entered in one, and one is handed on in the
// process by one.
//
// Waiters send no sign of life. One that has died costs a TTL when its turn has
// come: then the next one drops it, with all other places of its Locker. One that
// was only slow queues again, at the end.
//
// The queue is one object, read by all who stand in it at every change. It is
// for replicas that contend, not for thousands of customers: at 1000 places the
// server refuses the next.
package k8slock
