package stock

import (
	"fmt"
	"testing"

	"flashsale/internal/sandbox/mysql8"
)

// TestMySQLCanBeAskedForBlockers checks what a MariaDB is never sent: it has the
// tables that are asked first.
func TestMySQLCanBeAskedForBlockers(t *testing.T) {
	t.Parallel()
	for _, join := range blockersJoins {
		if err := mysql8.Check(fmt.Sprintf(blockersQuery, join)); err != nil {
			t.Error(err)
		}
	}
}
