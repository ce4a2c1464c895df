package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"flashsale/internal/backend"
	"flashsale/internal/settings"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

type configCmd struct {
	List   configListCmd   `cmd:"" help:"Print every setting, its value in etcd and what it means."`
	Get    configGetCmd    `cmd:"" help:"Print the value of a setting in etcd."`
	Set    configSetCmd    `cmd:"" help:"Change a setting for all replicas."`
	Delete configDeleteCmd `cmd:"" help:"Delete a setting from etcd. Each replica then uses its own flag."`
}

// configTimeout bounds how long a command waits for etcd.
const configTimeout = 5 * time.Second

// withSettings calls do with the settings of the database.
func (f *backendFlags) withSettings(ctx context.Context, do func(context.Context, settings.Store) error) error {
	return f.withSchema(ctx, func(ctx context.Context, db *stock.DB) error {
		return f.withBound(ctx, db, func(row strategy.Strategy, b *backend.Backend) error {
			if row.Server != strategy.InEtcd {
				return fmt.Errorf("strategy %s does not use etcd; runtime settings are unavailable: change the flags of each replica and restart it", row.Name)
			}
			ctx, cancel := context.WithTimeout(ctx, configTimeout)
			defer cancel()
			return do(ctx, settingsStore(b, &f.Servers, db))
		})
	})
}

type configListCmd struct {
	backendFlags
	JSON bool `help:"Print JSON."`
}

// listedSetting is how a setting is printed.
type listedSetting struct {
	Name string `json:"name"`
	// Value is null if the flags apply, or if the setting is unknown.
	Value    *string `json:"value"`
	Revision int64   `json:"revision"`
	// Wrong is why replicas ignore the value.
	Wrong string `json:"wrong,omitempty"`
	Help  string `json:"help,omitempty"`
}

func (c *configListCmd) Run(ctx context.Context, s streams) error {
	return c.withSettings(ctx, func(ctx context.Context, store settings.Store) error {
		stored, err := store.List(ctx)
		if err != nil {
			return err
		}
		list := listSettings(stored.Entries)
		if c.JSON {
			return s.json(map[string]any{"settings": list, "more": stored.More})
		}
		t := s.table("setting", "in etcd", "revision", "what it is")
		for _, l := range list {
			value, help := "- (not set: flags apply)", l.Help
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
		if stored.More {
			t.AppendRow(table.Row{"and others", "", "", "IGNORED: unknown settings"})
		}
		t.Render()
		return nil
	})
}

// listSettings returns every known setting, then the unknown entries in etcd.
func listSettings(entries []settings.Entry) []listedSetting {
	stored := map[string]settings.Entry{}
	for _, e := range entries {
		stored[e.Name] = e
	}
	var list []listedSetting
	for _, row := range settings.All() {
		l := listedSetting{Name: row.Name, Help: row.Help}
		if e, ok := stored[row.Name]; ok {
			l.Value, l.Revision, l.Wrong = &e.Value, e.Revision, text(row.Check(e.Value))
			delete(stored, row.Name)
		}
		list = append(list, l)
	}
	for _, e := range entries {
		if _, unknown := stored[e.Name]; unknown {
			_, err := settings.Find(e.Name)
			list = append(list, listedSetting{Name: e.Name, Revision: e.Revision, Wrong: text(err)})
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
	backendFlags
	Name string `arg:"" help:"One of ${settings}."`
}

func (c *configGetCmd) Run(ctx context.Context, s streams) error {
	if _, err := settings.Find(c.Name); err != nil {
		return err
	}
	return c.withSettings(ctx, func(ctx context.Context, store settings.Store) error {
		e, err := store.Get(ctx, c.Name)
		if err != nil {
			return err
		}
		if e.Revision == 0 {
			return fmt.Errorf("%s is not set in etcd: each replica's flags apply", c.Name)
		}
		_, err = fmt.Fprintln(s.out, e.Value)
		return err
	})
}

// revisionFlag keeps two operators from overwriting each other's changes.
type revisionFlag struct {
	Revision *int64 `placeholder:"N" help:"Change the setting only if api config list shows this revision for it; 0 means that etcd does not have it. By default any revision is accepted."`
}

// expected returns the revision that the entry must have.
func (f *revisionFlag) expected(now settings.Entry) int64 { return *cmp.Or(f.Revision, &now.Revision) }

type configSetCmd struct {
	backendFlags
	revisionFlag
	Name  string `arg:"" help:"One of ${settings}."`
	Value string `arg:"" help:"The new value. api config list describes each setting."`
}

func (c *configSetCmd) Run(ctx context.Context, s streams) error {
	if err := settings.Check(c.Name, c.Value); err != nil {
		return err
	}
	return c.withSettings(ctx, func(ctx context.Context, store settings.Store) error {
		now, err := store.Get(ctx, c.Name)
		if err != nil {
			return err
		}
		revision, err := store.Set(ctx, c.Name, c.Value, c.expected(now))
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%s is %s, at revision %d\n", c.Name, c.Value, revision)
		return err
	})
}

type configDeleteCmd struct {
	backendFlags
	revisionFlag
	Name string `arg:"" help:"One of ${settings}, or an unknown name that api config list shows."`
}

func (c *configDeleteCmd) Run(ctx context.Context, s streams) error {
	return c.withSettings(ctx, func(ctx context.Context, store settings.Store) error {
		now, err := store.Get(ctx, c.Name)
		if err != nil {
			return err
		}
		if now.Revision == 0 {
			// An unknown name can be deleted only if etcd has it.
			if _, err := settings.Find(c.Name); err != nil {
				return err
			}
			if c.expected(now) == 0 {
				_, err = fmt.Fprintf(s.out, "%s was not set in etcd: each replica's flags apply\n", c.Name)
				return err
			}
		}
		if err := store.Delete(ctx, c.Name, c.expected(now)); err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%s deleted: each replica's flags apply\n", c.Name)
		return err
	})
}
