package main

import (
	"context"

	"flashsale/internal/backend"
	"flashsale/internal/limit"
	"flashsale/internal/settings"
	"flashsale/internal/stock"
)

// flagValues are the settings that the flags set.
func (c *serveCmd) flagValues() settings.Values {
	return settings.Values{Quantum: c.Quantum, LogLevel: c.Level, ByCustomer: c.ByCustomer, ByAddress: c.ByAddress}
}

// settingsStore stores the settings of a database.
func settingsStore(b *backend.Backend, servers *backend.Servers, db *stock.DB) settings.Store {
	return settings.Store{Client: b.Etcd, Prefix: servers.Prefix + db.Name + "/config/"}
}

// startSettings applies the settings in etcd and watches them. Without etcd the flags
// apply.
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
	r.settings = w
	r.atClose(expiryRound, "settings", background(ctx, func(ctx context.Context) error { w.Run(ctx); return nil }))
	return nil
}

func (r *replica) apply(v settings.Values) {
	r.level.Set(v.LogLevel)
	r.orders.SetQuantum(v.Quantum)
	r.limits.Set(limit.ByCustomer, v.ByCustomer)
	r.limits.Set(limit.ByAddress, v.ByAddress)
}

// notes are problems that readiness shows without failing. A wrong setting or key set
// reaches all replicas at once, and must not make all of them unready.
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
