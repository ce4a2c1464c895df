package stock_test

import (
	"database/sql/driver"
	"fmt"
	"testing"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/stock"
)

// Only an error by which the server reports a rollback is retryable.
func TestRolledBackIsRetryable(t *testing.T) {
	t.Parallel()
	for number, want := range map[uint16]bool{
		1020: true, 1205: true, 1213: true, 3101: true,
		1062: false, 1180: false, 1290: false, 1317: false, 3024: false,
	} {
		err := fmt.Errorf("commit: %w", &mysql.MySQLError{Number: number})
		if got := stock.IsRetryable(err); got != want {
			t.Errorf("error %d is retryable: %v, want %v", number, got, want)
		}
	}
	for _, err := range []error{nil, mysql.ErrInvalidConn, driver.ErrBadConn} {
		if stock.IsRetryable(err) {
			t.Errorf("%v is retryable, want not", err)
		}
	}
}
