package stock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
)

// ErrInUse says that replicas run on the database.
var ErrInUse = errors.New("replicas still run on this database, or one is stopped with its connections open: end them all first " +
	"(a connection of a machine that is gone can be ended by KILL, see SHOW PROCESSLIST)")

// Presence is a replica's shared lock on the guard's row, in a transaction that
// stays open as long as the replica may write: Adopt, which wants the row alone,
// is refused meanwhile. Nothing that counts time would do: a replica that is
// stopped keeps its connection, and what it writes when it wakes up would pass
// fences that start again from zero.
type Presence struct {
	conn *sql.Conn
}

// Attend begins a Presence on a connection of db, which it keeps. It returns a
// GuardError when the database is not guarded as want says.
func (db *DB) Attend(ctx context.Context, want Guard) (*Presence, error) {
	conn, err := db.SQL.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoConnection, err)
	}
	p := &Presence{conn: conn}
	var have Guard
	if _, err = conn.ExecContext(ctx, "BEGIN"); err == nil {
		err = conn.QueryRowContext(ctx, "SELECT strategy, fence, token_source FROM guard WHERE id = 1 LOCK IN SHARE MODE").
			Scan(&have.Strategy, &have.Fence, &have.TokenSource)
	}
	if err == nil && have != want {
		err = &GuardError{Have: have, Want: want}
	}
	if err != nil {
		p.Leave()
		return nil, fmt.Errorf("attend: %w", err)
	}
	return p, nil
}

// Check asks whether the connection, and with it the lock, still stands. After an
// error it does not, and has to be left.
func (p *Presence) Check(ctx context.Context) error {
	if err := p.conn.PingContext(ctx); err != nil { // a sql.Conn is never made anew
		return fmt.Errorf("attend: %w", err)
	}
	return nil
}

// Leave ends it. The connection is closed: that ends the transaction, too.
func (p *Presence) Leave() {
	_ = p.conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = p.conn.Close()
}
