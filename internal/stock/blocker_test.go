package stock

import (
	"testing"

	"flashsale/internal/sandbox/mysql8"
)

// TestMySQLCanBeAskedForBlockers checks what a MariaDB is never sent: it has the
// table that is asked first.
func TestMySQLCanBeAskedForBlockers(t *testing.T) {
	t.Parallel()
	for _, query := range blockersQueries {
		if err := mysql8.Check(query); err != nil {
			t.Error(err)
		}
	}
}
