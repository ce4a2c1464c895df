// Package etcdlock is a fair lock between processes, in etcd. It knows keys,
// leases and watches; what is locked, and what a token is shown to, is left to
// others. A grant ends with its lease, whatever its holder believes: fence what
// is written under it.
//
// # Protocol
//
// A process has one lease. Whoever wants a name creates a key of its own,
//
//	prefix/name/<lease>-<n>        n is never used twice in a process
//
// and the keys of a name, in the order of their create revisions, are its
// queue: the first one holds. The create revision is also the fencing token.
// Each change is one transaction that compares a create revision:
//
//	queue up   If CreateRevision(key) = 0     Then Put(key, owner, lease), Range(prefix/name/)
//	leave      If CreateRevision(key) = rev   Then Delete(key), Range(prefix/name/)
//	evict      If CreateRevision(first) = rev Then Delete(first), Range(prefix/name/)
//
// so that a request which arrives late or twice can neither make two places
// nor delete a later holder's. A place goes through these states:
//
//	        not the first
//	asked ------------------> waiting ---------------> gone
//	  |                          |     key vanished, or its lease ended: queue up again;
//	  | the first,               |     context ended: delete the key behind the caller
//	  | says the answer          | the first, says the view
//	  +------------+-------------+
//	               v
//	             held ---------------> gone
//	               |     key vanished, or its lease ended: Lost is closed
//	               | Unlock
//	               v
//	            leaving -------------> gone
//	                     deleted; or ErrLost, if it was no longer there;
//	                     or, without an answer, deleted in the background
//
// # The view
//
// Each name in use has one view of its queue: a list at some revision, and all
// changes since, applied in the order of their revisions. One watch on the prefix
// feeds all views; it is opened once and stays open while any name is in use,
// because a watch that starts at a revision which is already past waits for a
// loop in the server that wakes every 100 ms, and one for each of ten thousand
// names would cost their memory three times. The watch therefore asks for the
// present (revision 0), which the server never files as late, and whatever lies
// before its beginning comes from a list of all names that is read before its
// first event is applied. A name that is used for the first time gets its list
// with the answer of its first transaction, which lists the queue; events that
// came before that answer wait for it. Each later answer moves the view forward.
//
// A view may be old: it lags while the watch is broken. That delays a grant but
// can never make a wrong one. A later key has a larger revision, so that nobody
// gets in before a place that a view has shown to be first; such a place can
// only vanish, by its lease's end or by an operator's hand. A view must be whole,
// though, as of one revision: a deletion taken in before an earlier one would
// show a place as the first that has been removed. So the answer to Unlock lists
// the queue, too, and whoever is next in the same process need not wait for the
// watch.
//
// The view also tells which process holds a name, with which token, and where that
// process takes orders of others (Holder): the value of the first key says so. Evict
// ends the grant of a holder that was found dead or standing still. The holder learns
// of it by its view. Until then the fence must refuse what it writes.
//
// # The lease
//
// A lease is renewed as all locks' are, see package lease: three times a TTL,
// counted from before the renewal was sent, and a margin before the earliest time
// at which the server can end it, this process gives up all grants under it, by
// its monotonic clock. (A process that is paused closes nothing meanwhile; hence
// the fence.) The next Lock begins a new lease.
//
// # What was left behind
//
// A request that timed out may be applied later. A key of our lease that no
// place of ours stands for is deleted when the view shows it; once a TTL, all
// keys of the lease are compared with the places as well.
//
// # A cluster
//
// With one node of three gone, locks are granted as before; where it was the
// leader, after an election. What had been handed to a leader as it died is never
// answered: no request waits longer than a third of the TTL, and what it may have
// left is deleted. On the side of a minority nothing is granted: a Lock ends at
// its context's end, and a holder there gives up before its lease can end.
//
// # The others
//
// Try is a key without a queue, which refuses with the holder's name. Textbook is
// the client library's mutex, for comparison.
package etcdlock
