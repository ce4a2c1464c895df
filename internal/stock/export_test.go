package stock

import (
	"context"
	"testing/fstest"
)

// MigrateBy migrates the schema to version 2 with the given SQL.
func (db *DB) MigrateBy(ctx context.Context, change string) error {
	return db.migrate(ctx, fstest.MapFS{"migrations/00002_next.sql": {Data: []byte("-- +goose Up\n" + change)}})
}
