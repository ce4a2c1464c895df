package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	prettytext "github.com/jedib0t/go-pretty/v6/text"

	"flashsale/internal/backend"
	"flashsale/internal/doctor"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// doctorTimeout bounds the examination of a server.
const doctorTimeout = 20 * time.Second

// doctorCmd examines the servers like a replica with the same flags at its start.
type doctorCmd struct {
	capacityFlags
	backendFlags
	strategyFlags
	JSON bool `help:"Print JSON."`
}

// Run prints all findings, even if a server does not answer.
func (c *doctorCmd) Run(ctx context.Context, s streams) error {
	row, fence, err := c.parse()
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	db, err := c.open(nil)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // nothing was written
	report := c.examineMySQL(ctx, db, row, fence)
	examining, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	report = append(report, backend.Examine(examining, row, &c.Servers, db.Name)...)
	if err := printReport(s, report, c.JSON); err != nil || report.Err() == nil {
		return err
	}
	return errReported
}

func (c *doctorCmd) examineMySQL(ctx context.Context, db *stock.DB, row strategy.Strategy, fence strategy.Fence) doctor.Report {
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	var report doctor.Report
	err := db.Ping(ctx)
	if err == nil || stock.IsReadOnly(err) { // the report explains a read-only server
		report, err = doctor.MySQL(ctx, db, c.needs(row, &c.mysqlFlags))
	}
	if err == nil {
		err = checkBinding(ctx, &report, db, stock.Binding{Strategy: row.Name, Fence: fence})
	}
	switch advice := stock.Advice(err); {
	case advice != "":
		report.Fault(doctor.Answers, advice, "it rejects the connection: %v", err)
	case err != nil:
		report.Fault(doctor.Answers, "start it, or correct --mysql-dsn or the network", "no answer: %v", err)
	}
	report = report.Of(c.address())
	return append(report, examineHosts(ctx, db)...)
}

// examineHosts warns about hosts of the DSN that a replica could not use if the primary
// fails.
func examineHosts(ctx context.Context, db *stock.DB) (report doctor.Report) {
	hosts := db.Reach(ctx)
	for _, addr := range slices.Sorted(maps.Keys(hosts)) {
		var one doctor.Report
		if err := hosts[addr]; err == nil {
			one.Fine(doctor.Answers, "it accepts the connection")
		} else {
			todo := cmp.Or(stock.Advice(err), "start it, or remove it from --mysql-dsn")
			one.Warn(doctor.Answers, todo, "no replica could use it: %v", err)
		}
		report = append(report, one.Of("MySQL at "+addr)...)
	}
	return report
}

// checkBinding compares the flags with the database's binding, except for the token
// source, which is known only once a replica has opened the lock.
func checkBinding(ctx context.Context, report *doctor.Report, db *stock.DB, want stock.Binding) error {
	const check = "binding"
	have, err := db.Binding(ctx)
	if err != nil {
		return err
	}
	want.TokenSource = have.TokenSource
	switch {
	case have.Strategy == "":
		report.Fine(check, "%v", errUnused)
	case have != want:
		report.Fault(check, "correct --strategy and --fence", "%v", &stock.BindingError{Have: have, Want: want})
	default:
		report.Fine(check, "strategy %s, fence %s", have.Strategy, have.Fence)
	}
	return nil
}

func printReport(s streams, report doctor.Report, asJSON bool) error {
	faults, warnings := len(report.With(doctor.Fault)), len(report.With(doctor.Warning))
	if asJSON {
		return s.json(struct {
			OK       bool          `json:"ok"`
			Faults   int           `json:"faults"`
			Warnings int           `json:"warnings"`
			Findings doctor.Report `json:"findings"`
		}{faults == 0, faults, warnings, report})
	}
	t := s.table("server", "check", "", "found", "what to do")
	const width = 60 // fits a terminal of 160 columns
	t.SetColumnConfigs([]table.ColumnConfig{
		{Number: 4, WidthMax: width, WidthMaxEnforcer: prettytext.WrapSoft}, {Number: 5, WidthMax: width, WidthMaxEnforcer: prettytext.WrapSoft},
	})
	for _, f := range report {
		t.AppendRow(table.Row{f.Server, f.Check, f.Severity, f.Found, f.Do})
	}
	t.Render()
	_, err := fmt.Fprintf(s.out, "faults: %d, warnings: %d\n", faults, warnings)
	return err
}
