// Package mysqllock has three locks between processes in MySQL or MariaDB. All three end
// with a lease, even if their holder is paused: fence what is written under them.
//
//	NewTable    a row under a unique key      token    re-entrant by owner
//	NewRow      SELECT ... FOR UPDATE         none     holds a transaction
//	NewGetLock  GET_LOCK                      none     holds a connection
//
// They are fair between the goroutines of a process, but not between processes. One
// goroutine of a process at a time asks the server for a name, so that a thousand waiters
// of a name need only one connection.
//
// # lock-table
//
// A row has the holder of a name and the end of its lease by the database's clock:
//
//	take     UPDATE owner, token = token + 1, expires_at = NOW(6) + TTL
//	         WHERE owner = '' or expires_at has passed; or INSERT
//	renew    UPDATE expires_at = NOW(6) + TTL WHERE owner is us AND it has not passed
//	release  UPDATE owner = '' WHERE owner is us
//
// Each is one statement, durable when it is answered. Each request of a grant has a new
// owner name, so a statement that is applied late or twice cannot free or extend another
// grant. Released rows stay, because their counter is the fencing token. If a row is
// deleted anyway, the next one starts at the server's time in microseconds, which is
// larger than any earlier token. A crashed holder's row is taken when its lease has ended.
// MySQL announces no changes, so waiters poll, at most every 50 ms.
//
// An owner named by lock.WithOwner may lock again what it holds. The process counts that.
// A count in the row would cost a write for each entry, and would be wrong after a crash.
//
// # lock-row and get-lock
//
// Both locks belong to a connection, which is pinned while the lock is held. Their waiters
// queue on the server. On its own, such a lock could outlive its holder by hours, because
// a stopped process keeps its connection open. So the session's wait_timeout is set to
// the TTL, and the holder pings three times a TTL. Without pings, the server ends the
// session and with it the lock. The holder has a deadline by its own clock, and notices a
// loss, as with other leases. An operator ends a grant by KILL.
//
// They have no tokens: nothing that a transaction writes is durable before it ends, and a
// row lock must end by a rollback when its connection dies. Names of GET_LOCK belong to the
// server, not to a database, have at most 64 characters and ignore case, so they are hashes
// of database and name. A server that hangs for a third of the TTL loses all grants,
// because a cancelled ping closes its connection. In a Galera cluster, row locks exist on
// one node only, and GET_LOCK does not work: use lock-table there.
//
// # Connections
//
// Each Locker has its own pool. If locks pinned connections of the pool that their holders
// write with, none could be left to write with. Under lock-row and get-lock, each name
// that is held or waited for takes one connection. Config.Connections limits them, and a
// Lock that finds none free waits for one.
package mysqllock
