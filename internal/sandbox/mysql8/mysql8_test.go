package mysql8

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMySQL8Takes(t *testing.T) {
	t.Parallel()
	for _, statement := range []string{
		"INSERT INTO o (id) SELECT UNHEX(v.id) FROM stock s JOIN JSON_TABLE('[[1]]', '$[*]' COLUMNS (id CHAR(32) PATH '$[0]')) v ON s.sku = 'a'",
		"SELECT 1 FROM t LOCK IN SHARE MODE",
		"SELECT 1 FROM t FOR UPDATE SKIP LOCKED",
		"SELECT STRAIGHT_JOIN 1 FROM (SELECT 'a' AS customer UNION ALL SELECT 'c') k JOIN orders o ON 1",
		"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; SET time_zone = '+00:00', innodb_lock_wait_timeout = 1",
		"SELECT 'RETURNING', `system`, _binary'\\'RANK' FROM t -- GROUPS",
		"KILL 7", "SELECT GET_LOCK('a', 1)", "ALTER TABLE t ADD COLUMN a INT, ALGORITHM = INSTANT",
		"GRANT PROCESS ON *.* TO 'a'@'%'",
		"SET a = 1 /*M!100600 , max_statement_time = 0 */ /*!80400 , max_execution_time = 0 */",
	} {
		if err := Check(statement); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatIsMariaDBsAloneIsRefused(t *testing.T) {
	t.Parallel()
	for _, statement := range []string{
		"INSERT INTO t (a) VALUES (1) RETURNING id", "DELETE FROM t RETURNING id", "UPDATE t SET a = 1 RETURNING id",
		"SELECT a AS rank FROM t", "SELECT groups FROM t", "SELECT lead FROM t", "CREATE TABLE t (system INT)", "SELECT parallel FROM t",
		"SELECT 1 FROM t FOR UPDATE WAIT 5", "SELECT 1 FROM t FOR UPDATE; SELECT 1 FROM t LOCK IN SHARE MODE NOWAIT",
		"ALTER TABLE t ADD COLUMN IF NOT EXISTS a INT", "CREATE INDEX IF NOT EXISTS k ON t (a)", "CREATE OR REPLACE TABLE t (a INT)",
		"CREATE TABLE t (a UUID)", "CREATE TABLE t (a INT) WITH SYSTEM VERSIONING", "SELECT NEXT VALUE FOR s", "CREATE SEQUENCE s",
		"SET STATEMENT max_statement_time = 1 FOR SELECT 1", "SET SESSION max_statement_time = 1", "SET a = 1 /*!80400 , max_statement_time = 0 */", "SELECT @@tx_isolation",
		"SELECT NVL(a, 1) FROM t", "SELECT JSON_DETAILED('{}')", "SELECT 1 /*M!100501 , 2 */", "KILL SOFT CONNECTION 7",
		"SELECT * FROM t LIMIT 5 ROWS EXAMINED 10", "EXECUTE IMMEDIATE 'SELECT 1'", "SELECT FROM WHERE",
	} {
		if err := Check(statement); err == nil {
			t.Errorf("passed: %s", statement)
		}
	}
}

func TestStatementsOfOneShape(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ statement, want string }{
		{"SELECT a,\n\t b FROM t WHERE c IN (1, 2.5, -3) /* why */ AND d = 'x''y\\'z'", "SELECT a, b FROM t WHERE c IN (?.?, -?) AND d = ?"},
		{"INSERT INTO t VALUES (_binary'a', 'b'), (1, NULL)", "INSERT INTO t VALUES (?), (?, NULL)"},
		{"SELECT `a``b` FROM t1", "SELECT ? FROM t1"},
	} {
		if got := shapeOf(test.statement); got != test.want {
			t.Errorf("%s has the shape\n%s, want\n%s", test.statement, got, test.want)
		}
	}
}

func TestEveryStatementOfALogIsChecked(t *testing.T) {
	t.Parallel()
	const head = "/usr/sbin/mariadbd, Version: 10.11.14-MariaDB. started with:\nTcp port: 1  Unix socket: \nTime\t\t    Id Command\tArgument\n"
	path := filepath.Join(t.TempDir(), "log")
	log := head + "261121 17:30:00\t     5 Connect\troot@localhost on  using TCP/IP\n" +
		"\t\t     5 Query\tSELECT a\nFROM t\n" +
		"261121 17:30:01\t    12 Query\tSELECT rank\nFROM t\n" +
		"\t\t    12 Query\tSELECT rank FROM t\n" +
		"\t\t    12 Prepare\tSELECT lead FROM t WHERE a = ?\n" +
		"\t\t    12 Execute\tSELECT lead FROM t WHERE a = 1\n" +
		"\t\t    12 Quit\t\n" +
		"\t\t    12 Query\tSELECT b FROM t\n" +
		head + // it was started again
		"\t\t    13 Query\tSELECT groups FR"
	if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	err := CheckLog(path)
	if err == nil || strings.Count(err.Error(), "not MySQL 8") != 2 || !strings.Contains(err.Error(), "rank\nFROM t") || !strings.Contains(err.Error(), "lead") {
		t.Errorf("the log's error is %v, want one each for rank and lead", err)
	}
}
