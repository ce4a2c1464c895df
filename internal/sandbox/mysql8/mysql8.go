// Package mysql8 says whether MySQL 8 takes a statement that a MariaDB took.
//
// Tests run on MariaDB, the service on MySQL 8.4 as well. Two parsers of MySQL's
// grammar look at each statement, since each lets something pass that the other
// refuses, and a list of what both let pass. Names of tables and columns are not
// looked up.
package mysql8

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/pingcap/tidb/pkg/parser"
	_ "github.com/pingcap/tidb/pkg/parser/test_driver" // the parser's literals
	"vitess.io/vitess/go/vt/sqlparser"
)

// version is what docker-compose.yml runs.
const version = "8.4.0"

var grammar = sync.OnceValues(func() (*sqlparser.Parser, error) {
	return sqlparser.New(sqlparser.Options{MySQLServerVersion: version})
})

// Check returns an error unless MySQL 8 has the grammar, the functions and the
// settings of a statement, or of several with semicolons between.
func Check(statements string) error {
	vitess, err := grammar()
	if err != nil {
		return err
	}
	pieces, err := vitess.SplitStatementToPieces(statements)
	if err != nil {
		return fmt.Errorf("not MySQL 8: %w: %s", err, statements)
	}
	var errs []error
	for _, piece := range pieces {
		if err := check(vitess, strings.TrimSpace(piece)); err != nil {
			errs = append(errs, fmt.Errorf("not MySQL 8: %w: %s", err, piece))
		}
	}
	return errors.Join(errs...)
}

func check(vitess *sqlparser.Parser, statement string) error {
	if setting.MatchString(statement) {
		statement = ofMySQL.ReplaceAllString(ofMariaDB.ReplaceAllString(statement, ""), "$1")
	}
	// In place of literals and quoted names, which may hold any words.
	bare := shapeOf(statement)
	for _, rule := range alone {
		if found := rule.FindString(bare); found != "" {
			return fmt.Errorf("%q is MariaDB's alone, or a word that MySQL reserves", found)
		}
	}
	// Accounts, and triggers that break what a test wants broken, are the tests' own,
	// in the grammar that both servers share. Neither parser knows triggers.
	if ofTests.MatchString(bare) {
		return nil
	}
	if _, err := vitess.Parse(statement); err != nil {
		return err
	}
	if jsonTable.MatchString(bare) {
		return nil // TiDB has none
	}
	_, _, err := parser.New().ParseSQL(statement)
	return err
}

var (
	// What only one of the servers can set stands in a comment that the other skips.
	setting   = regexp.MustCompile(`(?i)^SET\b`)
	ofMariaDB = regexp.MustCompile(`/\*M!\d{6}[^*]*\*/`)
	ofMySQL   = regexp.MustCompile(`/\*!\d{5}([^*]*)\*/`)

	ofTests   = regexp.MustCompile(`(?i)^(CREATE|DROP|ALTER) USER\b|^GRANT\b|^REVOKE\b|^(CREATE|DROP) TRIGGER\b|^SIGNAL\b`)
	jsonTable = regexp.MustCompile(`(?i)\bJSON_TABLE\s*\(`)
)

// alone is what both parsers let pass, and MySQL 8 does not.
var alone = []*regexp.Regexp{
	// Reserved words since 8.0 and 8.4 that MariaDB does not reserve.
	regexp.MustCompile(`(?i)\b(SYSTEM|EMPTY|GROUPS|LATERAL|MANUAL|PARALLEL|QUALIFY|TABLESAMPLE)\b`),
	regexp.MustCompile(`(?i)\b(RETURNING|INTERSECT ALL|EXCEPT ALL|ROWS EXAMINED|(NEXT|PREVIOUS) VALUE)\b`),
	regexp.MustCompile(`(?i)\b(ADD|DROP|MODIFY|CHANGE)\s+((COLUMN|INDEX|KEY|CONSTRAINT|FOREIGN KEY)\s+)?IF\s+(NOT\s+)?EXISTS\b`),
	regexp.MustCompile(`(?i)\bCREATE\s+((UNIQUE|FULLTEXT)\s+)?INDEX\s+IF\s+NOT\s+EXISTS\b|\bDROP\s+INDEX\s+IF\s+EXISTS\b`),
	regexp.MustCompile(`(?i)\bOR\s+REPLACE\s+TABLE\b|\bSTART\s+TRANSACTION\s+(READ\s+ONLY\s*,\s*)?NOWAIT\b`),
	// LOCK IN SHARE MODE is common to both; with a wait it is not.
	regexp.MustCompile(`(?i)\b(FOR UPDATE|LOCK IN SHARE MODE)\s+WAIT\b|\bLOCK IN SHARE MODE\s+(NOWAIT|SKIP)\b`),
	regexp.MustCompile(`(?i)/\*M?!`),
	regexp.MustCompile(`(?i)\b(ADD_MONTHS|CHR|COLUMN_(ADD|CHECK|CREATE|DELETE|EXISTS|GET|JSON|LIST)|CRC32C|DECODE_ORACLE|JSON_(ARRAY_INTERSECT|COMPACT|DETAILED|EQUALS|` +
		`EXISTS|KEY_VALUE|LOOSE|NORMALIZE|OBJECT_FILTER_KEYS|OBJECT_TO_ARRAY|QUERY)|KDF|LASTVAL|LENGTHB|MEDIAN|NATURAL_SORT_KEY|NEXTVAL|NVL2?|PERCENTILE_(CONT|DISC)|` +
		`RANDOM_BYTES_HEX|SETVAL|SFORMAT|SYS_GUID|SUBSTR_ORACLE|TO_CHAR|TO_NUMBER|UUID_V[47]|UUIDV[47]|ENCRYPT|DES_(EN|DE)CRYPT|PASSWORD|OLD_PASSWORD|DECODE|ENCODE)\s*\(`),
	regexp.MustCompile(`(?i)\b(tx_isolation|tx_read_only|max_statement_time|idle_(write_|readonly_)?transaction_timeout|log_slow_\w+|aria_\w+|query_cache_\w+|` +
		`innodb_lock_schedule_algorithm|innodb_flush_log_at_timeout_ms|storage_engine|system_versioning_\w+|deadlock_timeout_\w+)\b`),
}
