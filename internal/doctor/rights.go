package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"flashsale/internal/stock"
)

// checkRights tries what the service does, in statements that match no row. The list
// of an account's grants would not do: there are roles, patterns of names and rights
// of single tables, and a server that is read-only refuses what they allow.
func (m *mysqlServer) checkRights(ctx context.Context) error {
	if m.schema.Version == 0 {
		return m.checkEmpty(ctx)
	}
	missing := []string{}
	for _, table := range slices.Sorted(maps.Keys(stock.Tables)) {
		column := stock.Tables[table]
		for _, try := range []string{
			fmt.Sprintf("SELECT `%s` FROM `%s` WHERE FALSE", column, table),
			fmt.Sprintf("INSERT INTO `%s` SELECT * FROM `%[1]s` WHERE FALSE", table),
			fmt.Sprintf("UPDATE `%s` SET `%s` = `%[2]s` WHERE FALSE", table, column),
			fmt.Sprintf("DELETE FROM `%s` WHERE FALSE", table),
		} {
			_, err := m.db.SQL.ExecContext(ctx, try)
			switch {
			case err == nil:
			case stock.IsNoTable(err) && m.schema.Version < m.schema.Program: // a migration that is to come makes it
			case stock.IsReadOnly(err):
				m.report.Fault("read-only", "use the primary, or make it one: SET GLOBAL read_only = OFF; ALTER DATABASE ... READ ONLY = 0",
					"the server refuses writes: %v%s", err, m.readOnlyBy())
				return nil
			case stock.IsDenied(err):
				right, _, _ := strings.Cut(try, " ")
				missing = append(missing, right+" on "+table)
			case stock.Advice(err) != "": // a limit of the account
				m.report.Fault("rights", stock.Advice(err), "the server refuses to write: %v", err)
				return nil
			case stock.IsServerError(err) && !stock.IsRetryable(err):
				m.report.Fault("rights", "mend the table, or restore it", "the server refuses to write %s: %v", table, err)
				return nil
			default:
				return fmt.Errorf("try to write %s: %w", table, err)
			}
		}
	}
	m.report.Fine("read-only", "the server takes writes")
	if len(missing) > 0 {
		m.report.Fault("rights", m.grant(), "the account lacks %s", strings.Join(missing, ", "))
		return nil
	}
	if m.schema.Version < m.schema.Program {
		return m.checkEmpty(ctx)
	}
	m.report.Fine("rights", "the account may read and write the tables")
	return nil
}

// checkEmpty is for a database whose tables are still to be made.
func (m *mysqlServer) checkEmpty(ctx context.Context) error {
	// READ_ONLY ADMIN may write all the same, but not what is read-only for all.
	if by := m.readOnlyBy(); by != "" {
		m.report.Fault("read-only", "use the primary, or make it one: SET GLOBAL read_only = OFF", "the server refuses writes%s", by)
		return nil
	}
	m.report.Fine("read-only", "the server takes writes")
	// The right is checked as the statement is prepared, and nothing is made.
	made, err := m.db.SQL.PrepareContext(ctx, "CREATE TABLE flashsale_doctor (id INT NOT NULL PRIMARY KEY) ENGINE = InnoDB")
	switch {
	case err == nil:
		m.report.Fine("rights", "the account may make tables")
		return made.Close()
	case stock.IsDenied(err):
		m.report.Fault("rights", m.grant()+"; or run `api migrate` as an account that may make tables", "the account may not make tables")
		return nil
	case stock.IsServerError(err):
		m.report.Fault("rights", m.grant(), "the account cannot make tables: %v", err)
		return nil
	}
	return fmt.Errorf("try to make a table: %w", err)
}

func (m *mysqlServer) grant() string {
	return fmt.Sprintf("GRANT ALL ON `%s`.* TO the account", m.db.Name)
}

// readOnlyBy names the variables that make the server read-only.
func (m *mysqlServer) readOnlyBy() string {
	var by []string
	for _, name := range []string{"read_only", "super_read_only", "innodb_read_only"} {
		if m.on(name) {
			by = append(by, name+" is "+m.variables[name])
		}
	}
	if len(by) == 0 {
		return ""
	}
	return " (" + strings.Join(by, ", ") + ")"
}

// checkBlockers tries what a replica does when an idle transaction is in a claim's way.
func (m *mysqlServer) checkBlockers(ctx context.Context) error {
	const (
		check = "idle blockers"
		cost  = "a stranger's idle transaction, or a stopped replica's, can keep a SKU from being sold until its connection ends"
	)
	switch err := m.db.SeesBlockers(ctx); {
	case !m.isMariaDB && !m.on("performance_schema"):
		m.report.Warn(check, "start the server with performance_schema=ON", "performance_schema is OFF, so that they cannot be found: %s", cost)
	case err == nil:
		m.checkKill(ctx, check)
	case stock.IsDenied(err):
		m.report.Warn(check, "GRANT PROCESS ON *.* TO the account"+map[bool]string{
			false: ", and GRANT SELECT ON performance_schema.data_lock_waits TO it"}[m.isMariaDB],
			"the account cannot see them (%v): %s", err, cost)
	case stock.IsServerError(err):
		m.report.Warn(check, "see docs/operations.md", "they cannot be seen (%v): %s", err, cost)
	default:
		return err
	}
	return nil
}

// checkKill says whose connections may be ended. It reads the grants of the account
// and of its active roles: a KILL cannot be tried.
func (m *mysqlServer) checkKill(ctx context.Context, check string) {
	finding := Finding{Check: check, Severity: Fine, Found: "are found, and ended if they are the account's own",
		Do: "for those of other accounts: GRANT CONNECTION_ADMIN ON *.* TO the account (MariaDB: CONNECTION ADMIN)"}
	rows, err := m.db.SQL.QueryContext(ctx, "SHOW GRANTS")
	if err != nil {
		m.report = append(m.report, finding)
		return
	}
	defer rows.Close()
	for rows.Next() {
		var grant string
		if rows.Scan(&grant) != nil {
			break
		}
		rights, _, global := strings.Cut(grant, " ON *.* TO ")
		if global && (strings.Contains(rights, "ALL PRIVILEGES") || strings.Contains(rights, "SUPER") ||
			strings.Contains(rights, "CONNECTION_ADMIN") || strings.Contains(rights, "CONNECTION ADMIN")) {
			finding.Found, finding.Do = "are found and ended, of any account", ""
		}
	}
	if rows.Err() == nil {
		m.report = append(m.report, finding)
	}
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
		m.report.Warn("clock", "let NTP set both clocks", "the server's is %s from this machine's: sales open, and orders expire, by the server's", off)
	} else {
		m.report.Fine("clock", "within %s of this machine's", clockSkew)
	}
	return nil
}
