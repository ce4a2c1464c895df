package sandbox

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// Connection is one of a database server's, as it lists them.
type Connection struct {
	ID       int64
	Database string
	Command  string // "Sleep", "Query"
	State    string // what it waits for, in the server's words
	Info     string // the statement that it is at
}

// Connections lists the server's connections, this call's own included. It asks by
// SHOW, which alone both products answer whatever bytes the statements have.
func (m *MySQL) Connections(ctx context.Context) ([]Connection, error) {
	db, err := m.open("")
	if err != nil {
		return nil, err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, "SHOW FULL PROCESSLIST")
	if err != nil {
		return nil, fmt.Errorf("list the connections: %w", err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, fmt.Errorf("list the connections: %w", err)
	}
	var all []Connection
	for rows.Next() {
		var c Connection
		var database, command, state, info sql.NullString
		fields := map[string]any{"id": &c.ID, "db": &database, "command": &command, "state": &state, "info": &info}
		into := make([]any, len(columns))
		for i, column := range columns {
			into[i] = fields[strings.ToLower(column)]
			if into[i] == nil {
				into[i] = new(sql.RawBytes)
			}
		}
		if err := rows.Scan(into...); err != nil {
			return nil, fmt.Errorf("list the connections: %w", err)
		}
		c.Database, c.Command, c.State, c.Info = database.String, command.String, state.String, info.String
		all = append(all, c)
	}
	return all, rows.Err()
}
