// Package zklock is a fair lock between processes, in ZooKeeper. A grant ends with
// its session, even if its holder does not notice: fence every write under it.
//
// # Protocol
//
// A process has one session. To lock a name, it creates an ephemeral node,
//
//	prefix/name/<id>-<sequence>   the id is unique; ZooKeeper appends the sequence
//
// The nodes of a name, ordered by sequence, are its queue. The first node holds the
// lock. The transaction that created a node (czxid) is the fencing token; tokens
// have the order of the queue. In this process, each node belongs to a place:
//
//	          not the first
//	created ----------------> waiting: watches the node before its own
//	   |                         |   that node is gone: list the queue again
//	   |                         |   own node or session ended: Lock queues again
//	   | the first               |   ctx ended: delete the node in the background
//	   +------------+------------+
//	                v
//	              held --------> gone
//	                |    own node or session ended: Lost is closed
//	                | Unlock
//	                v
//	             deleted; or ErrLost if it was gone; or, without an answer,
//	             deleted in the background
//
// A list may be stale, but it is at least as new as the session's own node, and every
// node in front of that was created earlier. So if a list shows a node as the first,
// it is the first until it is gone. A waiter watches only the node before its own, so
// that a release wakes one waiter (see the lesson on the thundering herd). The holder
// watches the queue until a second node appears, and then closes Contended.
//
// # Failures
//
// After a create without an answer, the client looks for the node by its id, after a
// sync with the leader. The result is definite: ZooKeeper keeps the order of a
// session's requests over all its connections and refuses late ones. A delete can
// simply be sent again, because the name of a node is never used twice.
//
// ZooKeeper counts a session's time-out from the last request that it received. The
// client sends one three times a TTL. All grants are lost a margin before the session
// can expire, by the monotonic clock. The client closes a lost session as soon as
// ZooKeeper is reachable. The next Lock begins a new session on a new client, because
// a reconnecting client sends its pending requests again, and those must not get a
// place in the new session.
//
// One gap remains. In an ensemble, a server reports a session to the leader with a
// delay of up to half a tick. If that server fails while the client is cut off from
// the others, the session may expire that much earlier than the client assumes. If
// half a tick is longer than the margin (a tenth of the TTL), two clients may hold
// the lock for the difference.
//
// The parents of the nodes are container nodes, which ZooKeeper removes a minute or
// two after their last child. Sequences then start again; tokens do not.
package zklock
