// Package mysqllock is three locks between processes, in MySQL or MariaDB. It
// knows connections, rows and the server's clock; what is locked, and what a
// token is shown to, is left to others. All three end by a lease, whatever their
// holder believes: fence what is written under them, where they have a token.
//
//	NewTable    a row under a unique key      token    re-entrant by owner
//	NewRow      SELECT ... FOR UPDATE         none     holds a transaction
//	NewGetLock  GET_LOCK                      none     holds a connection
//
// None is fair over processes. In a process they are: one goroutine at a time
// gets to the server for a name, so that a thousand waiters of one name cost one
// connection, and not a thousand.
//
// # lock-table
//
// A row says who has the name, and until when by the database's own clock:
//
//	take     UPDATE owner, token = token + 1, expires_at = NOW(6) + TTL
//	         WHERE nobody has it, or expires_at has passed; or INSERT
//	renew    UPDATE expires_at = NOW(6) + TTL WHERE owner is us AND it has not passed
//	release  UPDATE owner = '' WHERE owner is us
//
// Each is one statement, durable when answered, and each try has an owner's name
// of its own: one that is applied late, or twice, can neither free nor extend
// another's grant. A released row stays: its counter is the fencing token. Should
// a row be deleted all the same, the next one begins at the server's time in
// microseconds, which is above whatever was counted before. A crashed owner's row
// is taken over once its time has passed. MySQL tells nobody of a change: who
// waits asks again, at most every 50 ms.
//
// An owner that lock.WithOwner names may take again what it has. That is counted
// in the process and not in the row: an owner is of one process, and a count in
// the row would cost a write for each entry, and be wrong after a crash.
//
// # lock-row and get-lock
//
// Both belong to a connection, which is pinned for as long as the lock is held,
// and both wait on the server, which hands the lock on without being asked again.
// By itself such a lock would never end while its holder's machine keeps the
// connection: a process that is stopped keeps it for hours. Hence the session's
// wait_timeout is the TTL. The holder pings three times a TTL; where the pings
// stay away, the server ends the session, and with it the lock. So they have
// what a lease has, without a row that says so: a deadline by the holder's own
// clock, too, and a notice of the loss. An operator ends a grant by KILL.
//
// They cannot give a token: nothing that a transaction writes lasts before it
// ends, and a row lock must end by a rollback when its connection dies. The
// names of GET_LOCK are the server's, not a database's, have at most 64
// characters and no case: they are made of a hash of database and name. A server
// that hangs for a third of the TTL loses all grants, since a ping that was given
// up has closed its connection. A Galera cluster has no GET_LOCK, and its row
// locks are each node's own: there, use lock-table.
//
// # Connections
//
// Each Locker has a pool of its own. A lock that pinned connections of the pool
// that its holders write with would leave none to write with: all would wait
// until their time is up. A name that is held or waited for costs one connection
// for lock-row and get-lock; Config.Connections bounds them, and a Lock that
// finds none free waits for one as it waits for its turn.
package mysqllock
