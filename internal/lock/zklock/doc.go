// Package zklock is a fair lock between processes, in ZooKeeper. It knows nodes,
// sessions and watches; what is locked, and what a token is shown to, is left to
// others. A grant ends with its session, whatever its holder believes: fence what
// is written under it.
//
// # Protocol
//
// A process has one session. Whoever wants a name creates an ephemeral node,
//
//	prefix/name/<id>-<sequence>   the id is never used twice, the sequence is the server's
//
// and the nodes of a name, in the order of their sequence, are its queue: the
// first one holds. The transaction that has created a node (czxid) is the fencing
// token: queue and tokens have the same order. A place goes through these states:
//
//	          not the first
//	created ----------------> waiting: watches the node before its own, and no other
//	   |                         |   that has gone: list again
//	   |                         |   own node gone, or its session: queue up again
//	   | the first               |   context ended: delete the node behind the caller
//	   +------------+------------+
//	                v
//	              held --------> gone
//	                |    own node gone, or its session: Lost is closed
//	                | Unlock
//	                v
//	             deleted; or ErrLost, if it was no longer there; or, without an
//	             answer, deleted in the background
//
// A list may be old. It is as new as the session's own node at least, though, and
// all that could ever stand before that were created earlier: that a list shows a
// node as the first stays true until it has gone. Each watches its predecessor
// alone, so that a release wakes one waiter and costs the server the same whoever
// waits (see the lesson on the thundering herd). The holder, who is one, watches
// the list until another stands in it: it is wanted.
//
// # Answers that are lost
//
// A create without an answer is looked for by its id, after a sync with the
// servers' leader: the servers put what a session sends in order over all its
// connections, and refuse what comes late on an old one. It is looked for until
// that is known, also when the caller has gone. A delete is sent again: a node's
// name is never used twice.
//
// # The session
//
// The server counts from the last request that it has heard. Three times a TTL one
// is sent for that; its answer shows that the server has heard of us after it was
// sent. A margin before the earliest time at which the session can expire, this
// process gives up all grants under it, by its monotonic clock. (A process that is
// paused closes nothing meanwhile; hence the fence.) The session that is lost is
// closed on the server once that can be reached, and the next Lock begins a new
// one, on a client of its own: what was sent in the old one, and is sent again by
// a client that reconnects, must not take a place in the new one.
//
// What it cannot give: in an ensemble, the leader hears of a session from the
// server that it is connected to, half a tick late. When that server dies and the
// client is cut off from the others at the same time, the session may expire that
// much earlier than this process believes: where half a tick is more than the
// margin of a tenth of the TTL, two may hold for that long.
//
// # What is left behind
//
// The folders of names are container nodes, which ZooKeeper removes within a
// minute or two after their last node. Sequences begin again then; tokens do not.
package zklock
