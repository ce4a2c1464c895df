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

// Needs is what the service asks of MySQL beyond what it always does.
type Needs struct {
	// Connections are those that all replicas together may open; 0 asks for none.
	// Count says how they were counted, in the words of the flags.
	Connections int
	Count       string
}

// clockSkew is how far the server's clock may be off before anybody is told. All
// times in the tables are by the server's clock: buyers who compare them with their
// own see the difference.
const clockSkew = time.Second

// MySQL examines the server of db through the account that the service has there,
// which needs no more rights for it than those on its database. The error says that
// the server did not answer.
func MySQL(ctx context.Context, db *stock.DB, needs Needs) (Report, error) {
	m := mysqlServer{db: db}
	for _, ask := range []func(context.Context) error{
		m.readVariables, m.askVersion,
		func(ctx context.Context) error { return m.checkConnections(ctx, needs) },
		m.checkSettings, m.checkGalera, m.checkGroup, m.checkSchema, m.checkEngine, m.checkRights, m.checkBlockers, m.checkClock,
	} {
		if err := ask(ctx); err != nil {
			return m.report, err
		}
	}
	return m.report, nil
}

// Durable reports whether an order that was answered is on the server's disk.
func Durable(ctx context.Context, db *stock.DB) (bool, error) {
	m := mysqlServer{db: db}
	if err := m.readVariables(ctx); err != nil {
		return false, err
	}
	m.checkDurability()
	return len(m.report.With(Fine)) == len(m.report), nil
}

type mysqlServer struct {
	db        *stock.DB
	report    Report
	variables map[string]string // of the session; by lower-case names
	isMariaDB bool
	schema    stock.Schema
}

// read are the variables that are looked at. A server lacks some of them.
var read = []string{
	"version", "version_comment", "max_connections", "max_user_connections", "max_allowed_packet", "innodb_flush_log_at_trx_commit", "sync_binlog",
	"log_bin", "innodb_doublewrite", "read_only", "super_read_only", "innodb_read_only", "binlog_format", "performance_schema", "wsrep_on",
	"innodb_flush_method", "group_replication_group_name",
}

// readVariables reads those of the session: of max_user_connections that is the
// account's limit, where it has one, else the server's.
func (m *mysqlServer) readVariables(ctx context.Context) error {
	rows, err := m.db.SQL.QueryContext(ctx, "SHOW SESSION VARIABLES WHERE Variable_name IN ('"+strings.Join(read, "', '")+"')")
	if err != nil {
		return fmt.Errorf("read the server's variables: %w", err)
	}
	defer rows.Close()
	m.variables = map[string]string{}
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return fmt.Errorf("read the server's variables: %w", err)
		}
		m.variables[strings.ToLower(name)] = value
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the server's variables: %w", err)
	}
	return nil
}

func (m *mysqlServer) number(name string) int {
	n, _ := strconv.Atoi(m.variables[name]) // absent is 0
	return n
}

func (m *mysqlServer) on(name string) bool {
	value := m.variables[name]
	return value != "" && !strings.EqualFold(value, "OFF") && value != "0"
}

func (m *mysqlServer) askVersion(context.Context) error {
	m.isMariaDB = m.report.checkVersion(m.variables["version"], m.variables["version_comment"])
	return nil
}

// hourly are limits of an account that end its service in the middle of an hour.
var hourly = regexp.MustCompile(`MAX_(?:QUERIES|UPDATES|CONNECTIONS)_PER_HOUR [1-9]\d*`)

func (m *mysqlServer) checkConnections(ctx context.Context, needs Needs) error {
	for _, limit := range []struct {
		name, whose, raise string
	}{
		{"max_connections", "the server lets in", "raise the server's max_connections above that"},
		{"max_user_connections", "the account may open", "raise its MAX_USER_CONNECTIONS, or the server's max_user_connections where it has none, above that"},
	} {
		switch allowed := m.number(limit.name); {
		case allowed == 0: // no limit
		case needs.Connections >= allowed:
			m.report.Fault(limit.name, limit.raise+", or make one of the flags less", "%s %d, needed are %d and one to spare: %s",
				limit.whose, allowed, needs.Connections, needs.Count)
		case needs.Connections > 0:
			m.report.Fine(limit.name, "%s %d, needed are %d: %s", limit.whose, allowed, needs.Connections, needs.Count)
		}
	}
	// Every account may read how it was made.
	var made string
	if err := m.db.SQL.QueryRowContext(ctx, "SHOW CREATE USER CURRENT_USER()").Scan(&made); err != nil {
		if !stock.IsServerError(err) {
			return fmt.Errorf("read the account: %w", err)
		}
		m.report.Warn("account limits", "make sure that the account has no limits per hour", "cannot be read: %v", err)
		return nil
	}
	if limits := hourly.FindAllString(made, -1); len(limits) > 0 {
		names := make([]string, len(limits))
		for i, l := range limits {
			names[i] = strings.Fields(l)[0] + " 0"
		}
		m.report.Fault("account limits", "remove them: ALTER USER ... WITH "+strings.Join(names, " "),
			"the account has %s: the server would refuse orders until the hour is over", strings.Join(limits, ", "))
	} else {
		m.report.Fine("account limits", "none per hour")
	}
	return nil
}

func (m *mysqlServer) checkSettings(context.Context) error {
	if n := m.number("max_allowed_packet"); n < mysqlsession.LeastPacket {
		m.report.Fault("max_allowed_packet", fmt.Sprintf("set it globally to %d or more", mysqlsession.LeastPacket),
			"it is %d, %d is needed at least", n, mysqlsession.LeastPacket)
	} else {
		m.report.Fine("max_allowed_packet", "%d", n)
	}
	m.checkDurability()
	if format := m.variables["binlog_format"]; m.on("log_bin") && format == "STATEMENT" {
		m.report.Fault("binlog_format", "set it to ROW, or to MIXED", "it is STATEMENT, which InnoDB refuses at READ COMMITTED (error 1665)")
	} else if m.on("log_bin") {
		m.report.Fine("binlog_format", "%s", format)
	}
	return nil
}

// checkDurability warns of what a crash of the server or its machine may take away
// although it was answered.
func (m *mysqlServer) checkDurability() {
	lost := func(name, want, what string) {
		if value := m.variables[name]; value != want && value != "" {
			m.report.Warn("durability", "set "+name+" to "+want, "%s is %s: a crash of %s", name, value, what)
		}
	}
	before := len(m.report)
	lost("innodb_flush_log_at_trx_commit", "1", "the server or its machine loses orders that were answered")
	if m.on("log_bin") {
		lost("sync_binlog", "1", "its machine loses orders that were answered, on replicas or here")
	}
	if value := m.variables["innodb_doublewrite"]; value == "OFF" || value == "0" || value == "DETECT_ONLY" {
		m.report.Warn("durability", "set innodb_doublewrite to ON, unless the file system writes pages whole",
			"innodb_doublewrite is %s: a crash of its machine may tear pages of the tables", value)
	}
	if value := m.variables["innodb_flush_method"]; value == "nosync" || value == "O_DIRECT_NO_FSYNC" && m.isMariaDB {
		m.report.Warn("durability", "set innodb_flush_method to fsync or O_DIRECT", "innodb_flush_method is %s: a crash of its machine loses orders that were answered", value)
	}
	if len(m.report) == before {
		m.report.Fine("durability", "an order that was answered is on the disk")
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
		m.report.Fine(check, "none yet: the first replica, or `api migrate`, makes it")
	case m.schema.Version < m.schema.Program:
		m.report.Fine(check, "version %d: the next replica, or `api migrate`, brings it to %d", m.schema.Version, m.schema.Program)
	default:
		m.report.Fine(check, "version %d", m.schema.Version)
	}
	return nil
}

// checkEngine finds tables of ours that know no transactions.
func (m *mysqlServer) checkEngine(ctx context.Context) error {
	rows, err := m.db.SQL.QueryContext(ctx, "SELECT TABLE_NAME, COALESCE(ENGINE, 'none') FROM information_schema.TABLES "+
		"WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE = 'BASE TABLE' AND TABLE_NAME IN ('"+strings.Join(slices.Sorted(maps.Keys(stock.Tables)), "', '")+"')")
	if err != nil {
		return fmt.Errorf("read the tables' engines: %w", err)
	}
	defer rows.Close()
	n, wrong := 0, []string{}
	for rows.Next() {
		var table, engine string
		if err := rows.Scan(&table, &engine); err != nil {
			return fmt.Errorf("read the tables' engines: %w", err)
		}
		n++
		if !strings.EqualFold(engine, "InnoDB") {
			wrong = append(wrong, table+" ("+engine+")")
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the tables' engines: %w", err)
	}
	if len(wrong) > 0 {
		m.report.Fault("engine", "stop all replicas and ALTER TABLE ... ENGINE = InnoDB", "no InnoDB, so no transactions and no row locks: %s", strings.Join(wrong, ", "))
	} else if n > 0 {
		m.report.Fine("engine", "InnoDB")
	}
	return nil
}
