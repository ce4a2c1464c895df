package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"flashsale/internal/stock"
)

// checkRights tries the service's statements with conditions that match no row. Reading
// the grants would not suffice: it misses roles, patterns of names and rights on single
// tables, and a read-only server refuses what the grants allow. Only api purge deletes rows,
// with another account.
func (m *mysqlServer) checkRights(ctx context.Context) error {
	if m.schema.Version == 0 {
		return m.checkCreate(ctx)
	}
	missing := []string{}
	for _, table := range slices.Sorted(maps.Keys(stock.Tables)) {
		column := stock.Tables[table]
		for _, try := range []string{
			fmt.Sprintf("SELECT `%s` FROM `%s` WHERE FALSE", column, table),
			fmt.Sprintf("INSERT INTO `%s` SELECT * FROM `%[1]s` WHERE FALSE", table),
			fmt.Sprintf("UPDATE `%s` SET `%s` = `%[2]s` WHERE FALSE", table, column),
		} {
			_, err := m.db.SQL.ExecContext(ctx, try)
			switch {
			case err == nil:
			case stock.IsNoTable(err) && m.schema.Version < m.schema.Program: // a later migration creates it
			case stock.IsReadOnly(err):
				m.report.Fault("read-only", "use the primary, or make this server the primary: SET GLOBAL read_only = OFF; ALTER DATABASE ... READ ONLY = 0",
					"the server refuses writes: %v%s", err, m.readOnlyBy())
				return nil
			case stock.IsDenied(err):
				right, _, _ := strings.Cut(try, " ")
				missing = append(missing, right+" on "+table)
			case stock.Advice(err) != "": // a limit of the account
				m.report.Fault("rights", stock.Advice(err), "the server refuses to write: %v", err)
				return nil
			case stock.IsServerError(err) && !stock.IsRetryable(err):
				m.report.Fault("rights", "repair or restore the table", "the server refuses to write %s: %v", table, err)
				return nil
			default:
				return fmt.Errorf("try to write %s: %w", table, err)
			}
		}
	}
	m.report.Fine("read-only", "the server accepts writes")
	if len(missing) > 0 {
		m.report.Fault("rights", m.grant(), "the account lacks %s", strings.Join(missing, ", "))
		return nil
	}
	if m.schema.Version < m.schema.Program {
		return m.checkCreate(ctx)
	}
	m.report.Fine("rights", "the account may read and write the tables")
	return nil
}

// checkCreate is for a database whose tables are not all created yet.
func (m *mysqlServer) checkCreate(ctx context.Context) error {
	// An account with READ_ONLY ADMIN may write anyway, unless the server is read-only for all.
	if by := m.readOnlyBy(); by != "" {
		m.report.Fault("read-only", "use the primary, or make this server the primary: SET GLOBAL read_only = OFF", "the server refuses writes%s", by)
		return nil
	}
	m.report.Fine("read-only", "the server accepts writes")
	err := m.db.TryCreate(ctx)
	switch {
	case err == nil:
		m.report.Fine("rights", "the account may create tables")
		return nil
	case stock.IsDenied(err):
		m.report.Fault("rights", "run `api migrate` with an account that may create tables", "%v", m.db.Migratable(ctx))
		return nil
	case stock.IsServerError(err):
		m.report.Fault("rights", "let the account create tables, or run `api migrate` with one that may", "the account cannot create tables: %v", err)
		return nil
	}
	return fmt.Errorf("try to create a table: %w", err)
}

func (m *mysqlServer) grant() string {
	return fmt.Sprintf("GRANT SELECT, INSERT, UPDATE ON `%s`.* TO the account", m.db.Name)
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

// checkBlockers tries to find idle transactions that hold a stock row, as a claim does.
func (m *mysqlServer) checkBlockers(ctx context.Context) error {
	const (
		check = "idle blockers"
		cost  = "an idle transaction of another client or of a stopped replica can stop the sale of a SKU until its connection ends"
	)
	switch err := m.db.SeesBlockers(ctx); {
	case !m.isMariaDB && !m.on("performance_schema"):
		m.report.Warn(check, "start the server with performance_schema=ON", "performance_schema is OFF: %s", cost)
	case err == nil:
		m.checkKill(ctx, check)
	case stock.IsDenied(err):
		todo := "GRANT PROCESS ON *.* TO the account"
		if !m.isMariaDB {
			todo += ", and GRANT SELECT ON performance_schema.data_lock_waits TO it"
		}
		m.report.Warn(check, todo, "the account cannot see them (%v): %s", err, cost)
	case stock.IsServerError(err):
		m.report.Warn(check, "see docs/operations.md", "the server does not show them (%v): %s", err, cost)
	default:
		return err
	}
	return nil
}

// checkKill reports whose connections the account may end. It reads the grants of the
// account and its active roles, because KILL cannot be tried.
func (m *mysqlServer) checkKill(ctx context.Context, check string) {
	rows, err := m.db.SQL.QueryContext(ctx, "SHOW GRANTS")
	anyAccount := false
	if err == nil {
		defer rows.Close()
		for rows.Next() {
			var grant string
			if rows.Scan(&grant) != nil {
				break
			}
			rights, _, global := strings.Cut(grant, " ON *.* TO ")
			anyAccount = anyAccount || global && slices.ContainsFunc([]string{"ALL PRIVILEGES", "SUPER", "CONNECTION_ADMIN", "CONNECTION ADMIN"},
				func(right string) bool { return strings.Contains(rights, right) })
		}
		if rows.Err() != nil {
			return
		}
	}
	if anyAccount {
		m.report.Fine(check, "found and ended, for all accounts")
		return
	}
	m.report = append(m.report, Finding{Check: check, Severity: Fine, Found: "found, and ended if they belong to this account",
		Do: "to end those of other accounts: GRANT CONNECTION_ADMIN ON *.* TO the account (MariaDB: CONNECTION ADMIN)"})
}
