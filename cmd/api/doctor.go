package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dustin/go-humanize/english"
	"github.com/jedib0t/go-pretty/v6/table"
	prettytext "github.com/jedib0t/go-pretty/v6/text"

	"flashsale/internal/backend"
	"flashsale/internal/doctor"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// doctorTimeout bounds the examination of one server.
const doctorTimeout = 20 * time.Second

// doctorCmd examines the servers as a replica with the same flags does at its start.
type doctorCmd struct {
	capacityFlags
	mysqlFlags
	backend.Servers
	guardFlags
	JSON bool `help:"Print JSON."`
}

// Run prints all findings, also where a server does not answer.
func (c *doctorCmd) Run(ctx context.Context, s streams) error {
	row, fence, err := c.parse()
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	db, err := c.open()
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // it was only asked
	report := c.examineMySQL(ctx, db, row, fence)
	examining, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	report = append(report, backend.Examine(examining, row, &c.Servers, db.Name)...)
	if err := printReport(s, report, c.JSON); err != nil {
		return err
	}
	if report.Err() != nil {
		return errSaid
	}
	return nil
}

func (c *doctorCmd) examineMySQL(ctx context.Context, db *stock.DB, row strategy.Strategy, fence strategy.Fence) doctor.Report {
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	var report doctor.Report
	err := db.Ping(ctx)
	if err == nil || stock.IsReadOnly(err) { // which it names with what to do
		report, err = doctor.MySQL(ctx, db, c.needs(row, &c.mysqlFlags))
	}
	if err == nil {
		err = checkGuard(ctx, &report, db, stock.Binding{Strategy: row.Name, Fence: fence})
	}
	switch advice := stock.Advice(err); {
	case advice != "":
		report.Fault(doctor.Answers, advice, "it does not let us in: %v", err)
	case err != nil:
		report.Fault(doctor.Answers, "start it, or mend --mysql-dsn or the network between", "it does not: %v", err)
	}
	report = report.Of(c.address())
	return append(report, reach(ctx, db)...)
}

// reach finds hosts that a replica could not move to when the primary fails.
func reach(ctx context.Context, db *stock.DB) (report doctor.Report) {
	hosts := db.Reach(ctx)
	for _, addr := range slices.Sorted(maps.Keys(hosts)) {
		var one doctor.Report
		if err := hosts[addr]; err == nil {
			one.Fine(doctor.Answers, "it lets us in")
		} else {
			todo := cmp.Or(stock.Advice(err), "start it, or take it out of --mysql-dsn")
			one.Warn(doctor.Answers, todo, "no replica could use it: %v", err)
		}
		report = append(report, one.Of("MySQL at "+addr)...)
	}
	return report
}

// checkGuard compares how the database is guarded with the flags. Where the tokens
// come from is only known to who takes the lock.
func checkGuard(ctx context.Context, report *doctor.Report, db *stock.DB, want stock.Binding) error {
	have, err := db.Binding(ctx)
	if err != nil {
		return err
	}
	want.TokenSource = have.TokenSource
	switch {
	case have.Strategy == "":
		report.Fine("guard", "no replica has used this database yet")
	case have != want:
		report.Fault("guard", "mend --strategy and --fence", "%v", &stock.BindingError{Have: have, Want: want})
	default:
		report.Fine("guard", "strategy %s, fence %s", have.Strategy, have.Fence)
	}
	return nil
}

// doctorWidth keeps a table readable in a terminal of 160 columns.
const doctorWidth = 60

func printReport(s streams, report doctor.Report, asJSON bool) error {
	faults, warnings := len(report.With(doctor.Fault)), len(report.With(doctor.Warning))
	if asJSON {
		return printJSON(s.out, struct {
			OK       bool          `json:"ok"`
			Faults   int           `json:"faults"`
			Warnings int           `json:"warnings"`
			Findings doctor.Report `json:"findings"`
		}{faults == 0, faults, warnings, report})
	}
	t := table.NewWriter()
	t.SetOutputMirror(s.out)
	t.SetColumnConfigs([]table.ColumnConfig{
		{Number: 4, WidthMax: doctorWidth, WidthMaxEnforcer: prettytext.WrapSoft}, {Number: 5, WidthMax: doctorWidth, WidthMaxEnforcer: prettytext.WrapSoft},
	})
	t.AppendHeader(table.Row{"server", "check", "", "found", "what to do"})
	for _, f := range report {
		t.AppendRow(table.Row{f.Server, f.Check, f.Severity, f.Found, f.Do})
	}
	t.Render()
	_, err := fmt.Fprintf(s.out, "%s, %s\n", english.Plural(faults, "fault", ""), english.Plural(warnings, "warning", ""))
	return err
}
