// Package forward carries orders from the replica that took them to the one that
// sells, and answers back.
//
// It knows links between processes: batches, bounds, heartbeats and silence. It
// does not know who sells, when an order may be sent again or when a lock may be
// taken away: its caller decides that from what an Observer is told.
//
// # A link
//
// One link goes from a process that forwards to a process that sells. It is one
// gRPC stream for all SKUs. Its first message each way is a hello, which names
// the process: a seller that was started again is another process, although its
// address is the same.
//
//	            Send             hello               an order waits, nothing is read
//	(no link) --------> connecting ----> up --------------------------------> silent
//	     ^                  |            |  <--------------------------------    |
//	     |     refused,     |            |            something is read          |
//	     |     timed out,   v            v  reset, Break, unused                 |
//	     +--------------- (ended) <------+<--------------------------------------+
//
// Every order on a link that ends gets ErrBroken, unless its answer was read
// before, or ErrNoLink if the link never came up: then nothing was sent. A link never comes back: the next Send opens a new one, which replaces
// the older one at the seller.
//
// Both sides write whatever has queued up since the last write in one message,
// without a timer. Each stream has one goroutine that writes and one that reads;
// an order has none.
//
// # Silence
//
// The seller sends an empty message every tick, from the goroutine that writes
// its answers, so that silence means that its process stands still or cannot be
// reached, and not that it is slow. The forwarder counts its own ticks in which
// it read nothing while orders wait. It does not trust a tick of its own that
// comes late: then this process stood still, and what the seller sent meanwhile
// may not have been read yet. A tick at which the kernel holds bytes of the seller
// that were not read yet does not count either.
//
// # A process that is gone
//
// Silence cannot tell a process that is gone from one that stands still. Its address
// can: it refuses connections, or another process answers there. So a link that
// breaks with orders on it is opened again at once. The system may close the
// connections of a process that was killed before its listener; a connection that
// is taken and then reset is therefore tried again, for a fraction of a second.
package forward
