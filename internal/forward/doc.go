// Package forward carries orders from the replica that received them to the seller,
// and the answers back.
//
// It provides links between processes, with batching, limits, heartbeats and the
// detection of silence. It does not know who sells, when to resend an order or when
// to take over a lock: its caller decides that from what the Observer reports.
//
// # A link
//
// A link goes from a forwarding process to a selling process. It is one gRPC stream
// for all SKUs. The first message each way is a hello, which names the process: a
// restarted seller is another process at the same address.
//
//	            Send             hello               orders wait, nothing is read
//	(no link) --------> connecting ----> up --------------------------------> silent
//	     ^                  |            |  <--------------------------------    |
//	     |     refused,     |            |            something is read          |
//	     |     timed out,   v            v  reset, Break, unused                 |
//	     +--------------- (ended) <------+<--------------------------------------+
//
// When a link ends, each order on it without an answer gets ErrBroken, or ErrNoLink if
// the link never came up: then nothing was sent. The next Send opens a new link, which
// replaces the older one at the seller.
//
// Each side sends what has queued up since its last write as one message, without a
// timer. A stream has one goroutine that writes and one that reads; an order has none.
//
// # Silence
//
// The seller sends an empty message at each tick, from the goroutine that writes its
// answers. So silence means that the seller's process is paused or unreachable, not
// that it is slow. The forwarder counts its own ticks during which orders wait and
// nothing is read. A late tick restarts the count: this process was paused, and may
// not have read what was sent meanwhile. A tick does not count either if the kernel
// holds unread bytes from the seller.
//
// # A process that is gone
//
// A silent process may be gone or paused. Its address tells: if the process is gone,
// the address refuses connections or another process answers. So a link that breaks
// with orders on it is reopened at once. The system may close a killed process's
// connections before its listener; a connection that is accepted and then reset is
// therefore retried for a fraction of a second.
package forward
