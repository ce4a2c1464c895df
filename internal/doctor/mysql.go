package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"flashsale/internal/mysqlsession"
	"flashsale/internal/stock"
)

// Needs is what this service needs of MySQL, by its flags.
type Needs struct {
	// Connections is how many all replicas together may open; 0 skips the check.
	// Count says how it was computed, in terms of the flags.
	Connections int
	Count       string
}

// clockSkew is the largest difference to the server's clock that needs no warning. All
// times in the tables are by the server's clock, and buyers compare them with theirs.
const clockSkew = time.Second

// MySQL examines the server of db with the service's own account. It needs no rights
// beyond those on the database. Its error means that the server did not answer.
func MySQL(ctx context.Context, db *stock.DB, needs Needs) (Report, error) {
	m := mysqlServer{db: db, needs: needs}
	for _, check := range []func(context.Context) error{
		m.readVariables, m.checkConnections, m.checkLimits, m.checkSettings, m.checkGalera, m.checkGroup, m.checkSchema, m.checkEngine,
		m.checkRights, m.checkBlockers, m.checkClock,
	} {
		if err := check(ctx); err != nil {
			return m.report, err
		}
	}
	return m.report, nil
}

// Durable reports whether an acknowledged order is on the server's disk.
func Durable(ctx context.Context, db *stock.DB) (bool, error) {
	m := mysqlServer{db: db}
	if err := m.readVariables(ctx); err != nil {
		return false, err
	}
	m.report = nil
	m.checkDurability()
	return len(m.report.With(Fine)) == len(m.report), nil
}

type mysqlServer struct {
	db        *stock.DB
	needs     Needs
	report    Report
	variables map[string]string // of the session, by lower-case names
	isMariaDB bool
	schema    stock.Schema
}

// names are the variables that are read. Some servers lack some of them.
var names = []string{
	"version", "version_comment", "max_connections", "max_user_connections", "max_allowed_packet", "innodb_flush_log_at_trx_commit", "sync_binlog",
	"log_bin", "innodb_doublewrite", "read_only", "super_read_only", "innodb_read_only", "binlog_format", "performance_schema", "wsrep_on",
	"innodb_flush_method", "group_replication_group_name",
}

// readVariables reads the session's values: max_user_connections is then the account's
// own limit, if it has one.
func (m *mysqlServer) readVariables(ctx context.Context) (err error) {
	m.variables, err = m.pairs(ctx, "SHOW SESSION VARIABLES WHERE Variable_name IN ("+quoted(names)+")")
	if err != nil {
		return fmt.Errorf("read the server's variables: %w", err)
	}
	m.isMariaDB = m.report.checkDatabase(m.variables["version"], m.variables["version_comment"])
	return nil
}

func quoted(names []string) string { return "'" + strings.Join(names, "', '") + "'" }

// pairs returns the rows of a query with two text columns, by the lower-case first one.
func (m *mysqlServer) pairs(ctx context.Context, query string) (map[string]string, error) {
	rows, err := m.db.SQL.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := map[string]string{}
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return nil, err
		}
		found[strings.ToLower(name)] = value
	}
	return found, rows.Err()
}

func (m *mysqlServer) number(name string) int {
	n, _ := strconv.Atoi(m.variables[name]) // 0 if the server lacks it
	return n
}

func (m *mysqlServer) on(name string) bool {
	value := m.variables[name]
	return value != "" && !strings.EqualFold(value, "OFF") && value != "0"
}

func (m *mysqlServer) checkConnections(context.Context) error {
	for _, limit := range []struct {
		name, whose, raise string
	}{
		{"max_connections", "the server allows", "raise the server's max_connections above that"},
		{"max_user_connections", "the account may open", "raise its MAX_USER_CONNECTIONS, or the server's max_user_connections if it has none, above that"},
	} {
		switch allowed := m.number(limit.name); {
		case allowed == 0: // no limit
		case m.needs.Connections >= allowed:
			m.report.Fault(limit.name, limit.raise+", or lower one of the flags", "%s %d connections, but the service needs %d and one spare: %s",
				limit.whose, allowed, m.needs.Connections, m.needs.Count)
		case m.needs.Connections > 0:
			m.report.Fine(limit.name, "%s %d connections, the service needs %d: %s", limit.whose, allowed, m.needs.Connections, m.needs.Count)
		}
	}
	return nil
}

// hourly matches the limits of an account that would stop its service within an hour.
var hourly = regexp.MustCompile(`MAX_(?:QUERIES|UPDATES|CONNECTIONS)_PER_HOUR [1-9]\d*`)

func (m *mysqlServer) checkLimits(ctx context.Context) error {
	const check = "account limits"
	var account string // every account may read its own definition
	if err := m.db.SQL.QueryRowContext(ctx, "SHOW CREATE USER CURRENT_USER()").Scan(&account); err != nil {
		if !stock.IsServerError(err) {
			return fmt.Errorf("read the account: %w", err)
		}
		m.report.Warn(check, "make sure that the account has no limits per hour", "cannot be read: %v", err)
		return nil
	}
	limits := hourly.FindAllString(account, -1)
	if len(limits) == 0 {
		m.report.Fine(check, "none per hour")
		return nil
	}
	reset := make([]string, len(limits))
	for i, l := range limits {
		reset[i] = strings.Fields(l)[0] + " 0"
	}
	m.report.Fault(check, "remove them: ALTER USER ... WITH "+strings.Join(reset, " "),
		"the account has %s: when it is used up, the server refuses orders for the rest of the hour", strings.Join(limits, ", "))
	return nil
}

func (m *mysqlServer) checkSettings(context.Context) error {
	if n := m.number("max_allowed_packet"); n < mysqlsession.LeastPacket {
		m.report.Fault("max_allowed_packet", fmt.Sprintf("set it globally to %d or more", mysqlsession.LeastPacket),
			"it is %d, but at least %d is needed", n, mysqlsession.LeastPacket)
	} else {
		m.report.Fine("max_allowed_packet", "%d", n)
	}
	m.checkDurability()
	if format := m.variables["binlog_format"]; m.on("log_bin") && format == "STATEMENT" {
		m.report.Fault("binlog_format", "set it to ROW or MIXED", "it is STATEMENT, which InnoDB refuses at READ COMMITTED (error 1665)")
	} else if m.on("log_bin") {
		m.report.Fine("binlog_format", "%s", format)
	}
	return nil
}

// checkDurability warns of settings with which a crash of the server or its machine can
// lose acknowledged orders.
func (m *mysqlServer) checkDurability() {
	before := len(m.report)
	warn := func(bad bool, name, todo, effect string) {
		if value := m.variables[name]; bad && value != "" {
			m.report.Warn("durability", "set "+name+" to "+todo, "%s is %s: a crash of %s", name, value, effect)
		}
	}
	warn(m.variables["innodb_flush_log_at_trx_commit"] != "1", "innodb_flush_log_at_trx_commit", "1", "the server or its machine loses acknowledged orders")
	warn(m.on("log_bin") && m.variables["sync_binlog"] != "1", "sync_binlog", "1", "the machine loses acknowledged orders, here or on replicas")
	doublewrite := m.variables["innodb_doublewrite"]
	warn(doublewrite == "OFF" || doublewrite == "0" || doublewrite == "DETECT_ONLY", "innodb_doublewrite",
		"ON, unless the file system writes whole pages", "the machine can tear pages of the tables")
	flush := m.variables["innodb_flush_method"]
	warn(flush == "nosync" || flush == "O_DIRECT_NO_FSYNC" && m.isMariaDB, "innodb_flush_method", "fsync or O_DIRECT", "the machine loses acknowledged orders")
	if len(m.report) == before {
		m.report.Fine("durability", "acknowledged orders are on the disk")
	}
}

func (m *mysqlServer) checkSchema(ctx context.Context) (err error) {
	const check = "schema"
	m.schema, err = m.db.Schema(ctx)
	switch {
	case errors.Is(err, stock.ErrSchemaNewer):
		m.report.Fault(check, "run the newer program", "%v", err)
	case err != nil:
		return err
	case m.schema.Version == 0:
		m.report.Fine(check, "none yet: the first replica or `api migrate` creates it")
	case m.schema.Version < m.schema.Program:
		m.report.Fine(check, "version %d: the next replica or `api migrate` upgrades it to %d", m.schema.Version, m.schema.Program)
	default:
		m.report.Fine(check, "version %d", m.schema.Version)
	}
	return nil
}

// checkEngine finds tables of the service without transactions.
func (m *mysqlServer) checkEngine(ctx context.Context) error {
	engines, err := m.pairs(ctx, "SELECT TABLE_NAME, COALESCE(ENGINE, 'none') FROM information_schema.TABLES "+
		"WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE = 'BASE TABLE' AND TABLE_NAME IN ("+quoted(slices.Sorted(maps.Keys(stock.Tables)))+")")
	if err != nil {
		return fmt.Errorf("read the tables' engines: %w", err)
	}
	var wrong []string
	for _, table := range slices.Sorted(maps.Keys(engines)) {
		if engine := engines[table]; !strings.EqualFold(engine, "InnoDB") {
			wrong = append(wrong, table+" ("+engine+")")
		}
	}
	if len(wrong) > 0 {
		m.report.Fault("engine", "stop all replicas and ALTER TABLE ... ENGINE = InnoDB",
			"not InnoDB, so without transactions and row locks: %s", strings.Join(wrong, ", "))
	} else if len(engines) > 0 {
		m.report.Fine("engine", "InnoDB")
	}
	return nil
}

func (m *mysqlServer) checkClock(ctx context.Context) error {
	var theirs time.Time
	began := time.Now()
	if err := m.db.SQL.QueryRowContext(ctx, "SELECT UTC_TIMESTAMP(6)").Scan(&theirs); err != nil {
		return fmt.Errorf("read the server's clock: %w", err)
	}
	took := time.Since(began)
	off := theirs.Sub(began.Add(took / 2)).Round(time.Millisecond)
	if off.Abs() > clockSkew+took/2 {
		m.report.Warn("clock", "synchronize both clocks by NTP",
			"the server's clock differs from this machine's by %s: sales open and orders expire by the server's clock", off)
	} else {
		m.report.Fine("clock", "within %s of this machine's", clockSkew)
	}
	return nil
}
