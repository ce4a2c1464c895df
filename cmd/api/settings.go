package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"flashsale/internal/backend"
	"flashsale/internal/limit"
	"flashsale/internal/settings"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// flagValues are the settings as the flags say.
func (c *serveCmd) flagValues() settings.Values {
	return settings.Values{Quantum: c.Quantum, LogLevel: c.Level, ByCustomer: c.ByCustomer, ByAddress: c.ByAddress}
}

// settingsStore is where the settings of a database stand.
func settingsStore(g *backend.Backend, servers *backend.Servers, db *stock.DB) settings.Store {
	return settings.Store{Client: g.Etcd, Prefix: servers.Prefix + db.Name + "/config/"}
}

// startSettings applies what etcd says, and follows it until stopSettings. A
// strategy without etcd has its flags alone.
func (r *replica) startSettings(ctx context.Context) error {
	if r.backend.Etcd == nil {
		return nil
	}
	w := settings.New(settings.Config{
		Store: settingsStore(r.backend, &r.cmd.Servers, r.db), Flags: r.cmd.flagValues(), Apply: r.apply, Logger: r.logger,
	})
	if err := await(ctx, r.logger, backend.Address(r.strategy, &r.cmd.Servers), r.cmd.StartTimeout, w.Load); err != nil {
		return err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() { defer close(ended); w.Run(running) }()
	r.settings, r.stopSettings = w, func() { cancel(); <-ended }
	return nil
}

// apply brings about what the settings say.
func (r *replica) apply(v settings.Values) {
	r.level.Set(v.LogLevel)
	r.orders.SetQuantum(v.Quantum)
	r.limits.Set(limit.ByCustomer, v.ByCustomer)
	r.limits.Set(limit.ByAddress, v.ByAddress)
}

// notes are what readiness shows and what keeps nobody from serving: one wrong
// value in etcd, or one wrong key set, reaches all replicas at once, and must not
// take them all away.
func (r *replica) notes() map[string]string {
	notes := map[string]string{}
	if r.settings != nil {
		notes["config"] = r.settings.Report()
	}
	if r.keys != nil {
		notes["jwks"] = r.keys.Report()
	}
	return notes
}

type configCmd struct {
	List   configListCmd   `cmd:"" help:"Print every setting, and what etcd has of it."`
	Get    configGetCmd    `cmd:"" help:"Print one setting's value in etcd."`
	Set    configSetCmd    `cmd:"" help:"Change a setting on all replicas."`
	Delete configDeleteCmd `cmd:"" help:"Take a setting out of etcd: each replica's flags decide again."`
}

// configFlags say where the settings are.
type configFlags struct {
	mysqlFlags
	backend.Servers
}

// configTimeout bounds what a command waits for etcd.
const configTimeout = 5 * time.Second

// with calls f with the settings of the database.
func (c *configFlags) with(ctx context.Context, f func(context.Context, settings.Store) error) error {
	return withSchema(ctx, &c.mysqlFlags, func(ctx context.Context, db *stock.DB) (err error) {
		row, err := guardingStrategy(ctx, db)
		if err != nil {
			return err
		}
		if row.Server != strategy.InEtcd {
			return fmt.Errorf("strategy %s uses no etcd, where settings stand: change the flags of each replica, and start it again", row.Name)
		}
		opened, err := openBackend(ctx, row, c.Servers, &c.mysqlFlags, db)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeBackend(ctx, opened)) }()
		ctx, cancel := context.WithTimeout(ctx, configTimeout)
		defer cancel()
		return f(ctx, settingsStore(opened, &c.Servers, db))
	})
}

type configListCmd struct {
	configFlags
	JSON bool `help:"Print JSON."`
}

// listed is what is printed of a setting.
type listed struct {
	Name string `json:"name"`
	// Value is null where the flags decide, and where there is no such setting.
	Value    *string `json:"value"`
	Revision int64   `json:"revision"`
	// Wrong is why replicas ignore the value.
	Wrong string `json:"wrong,omitempty"`
	Help  string `json:"help,omitempty"`
}

func (c *configListCmd) Run(ctx context.Context, s streams) error {
	return c.with(ctx, func(ctx context.Context, store settings.Store) error {
		standing, err := store.List(ctx)
		if err != nil {
			return err
		}
		list := listSettings(standing.Entries)
		if c.JSON {
			return printJSON(s.out, map[string]any{"settings": list, "more": standing.More})
		}
		t := table.NewWriter()
		t.SetOutputMirror(s.out)
		t.AppendHeader(table.Row{"setting", "in etcd", "revision", "what it is"})
		for _, l := range list {
			value, help := "- (the flags decide)", l.Help
			if l.Value != nil {
				value = *l.Value
			}
			if l.Wrong != "" {
				help = "IGNORED: " + l.Wrong
			}
			if l.Help == "" {
				value = "- (not read)"
			}
			t.AppendRow(table.Row{l.Name, value, l.Revision, help})
		}
		if standing.More {
			t.AppendRow(table.Row{"and others", "", "", "IGNORED: they are no settings"})
		}
		t.Render()
		return nil
	})
}

// listSettings has every setting of the table, then what else stands in etcd.
func listSettings(entries []settings.Entry) []listed {
	stands := map[string]settings.Entry{}
	for _, e := range entries {
		stands[e.Name] = e
	}
	var list []listed
	for _, row := range settings.All() {
		l := listed{Name: row.Name, Help: row.Help}
		if e, ok := stands[row.Name]; ok {
			l.Value, l.Revision, l.Wrong = &e.Value, e.Revision, text(row.Check(e.Value))
			delete(stands, row.Name)
		}
		list = append(list, l)
	}
	for _, e := range entries {
		if _, unknown := stands[e.Name]; unknown {
			_, err := settings.Find(e.Name)
			list = append(list, listed{Name: e.Name, Revision: e.Revision, Wrong: text(err)})
		}
	}
	return list
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

type configGetCmd struct {
	configFlags
	Name string `arg:"" help:"One of ${settings}."`
}

func (c *configGetCmd) Run(ctx context.Context, s streams) error {
	if _, err := settings.Find(c.Name); err != nil {
		return err
	}
	return c.with(ctx, func(ctx context.Context, store settings.Store) error {
		e, err := store.Get(ctx, c.Name)
		if err != nil {
			return err
		}
		if e.Revision == 0 {
			return fmt.Errorf("%s does not stand in etcd: each replica's flags decide", c.Name)
		}
		_, err = fmt.Fprintln(s.out, e.Value)
		return err
	})
}

// unlessChanged is how two operators do not overwrite each other in silence.
type unlessChanged struct {
	Revision *int64 `placeholder:"N" help:"Only if the setting is still at this revision of api config list, 0 for one that etcd does not have; without, whatever its revision is."`
}

// of is the revision that the setting has to have, which is at now.
func (u *unlessChanged) of(now settings.Entry) int64 {
	if u.Revision != nil {
		return *u.Revision
	}
	return now.Revision
}

type configSetCmd struct {
	configFlags
	unlessChanged
	Name  string `arg:"" help:"One of ${settings}."`
	Value string `arg:"" help:"Its value: see api config list."`
}

func (c *configSetCmd) Run(ctx context.Context, s streams) error {
	if err := settings.Check(c.Name, c.Value); err != nil {
		return err // before any server is asked
	}
	return c.with(ctx, func(ctx context.Context, store settings.Store) error {
		now, err := store.Get(ctx, c.Name)
		if err != nil {
			return err
		}
		revision, err := store.Set(ctx, c.Name, c.Value, c.of(now))
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%s is %s, at revision %d\n", c.Name, c.Value, revision)
		return err
	})
}

type configDeleteCmd struct {
	configFlags
	unlessChanged
	Name string `arg:"" help:"One of ${settings}, or another name that api config list shows."`
}

func (c *configDeleteCmd) Run(ctx context.Context, s streams) error {
	return c.with(ctx, func(ctx context.Context, store settings.Store) error {
		now, err := store.Get(ctx, c.Name)
		if err != nil {
			return err
		}
		if now.Revision == 0 {
			// A name that is in no table is only taken to be cleared away.
			if _, err := settings.Find(c.Name); err != nil {
				return err
			}
			if c.of(now) == 0 {
				_, err = fmt.Fprintf(s.out, "%s did not stand in etcd: nothing was deleted, each replica's flags decide\n", c.Name)
				return err
			}
		}
		if err := store.Delete(ctx, c.Name, c.of(now)); err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%s is what each replica's flags say\n", c.Name)
		return err
	})
}
