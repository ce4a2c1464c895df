package mysqllock

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/pingcap/tidb/pkg/parser"
	_ "github.com/pingcap/tidb/pkg/parser/test_driver" // the parser's literals
)

// TestMySQLTakesTheSQL parses, by MySQL 8's grammar, what the other tests send to
// a MariaDB.
func TestMySQLTakesTheSQL(t *testing.T) {
	all := []string{
		TableSchema(tableName), RowSchema(rowName), idleSetting(5 * time.Second),
		"SELECT GET_LOCK(?, 0), IS_USED_LOCK(?)", "SELECT GET_LOCK(?, ?)", "SELECT RELEASE_LOCK(?)", "KILL 7", "ROLLBACK", "COMMIT",
		"SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED",
		"SET SESSION autocommit = 0, innodb_lock_wait_timeout = 1",
		"SET SESSION time_zone = '+00:00', innodb_lock_wait_timeout = 1",
	}
	for _, queries := range []any{tableSQL(tableName), rowSQL(rowName)} {
		v := reflect.ValueOf(queries)
		for i := range v.NumField() {
			all = append(all, v.Field(i).String())
		}
	}
	for _, query := range all {
		statements, _, err := parser.New().ParseSQL(query)
		if err != nil || len(statements) != 1 {
			t.Errorf("%s\n%v", query, fmt.Sprint(err))
		}
	}
}
