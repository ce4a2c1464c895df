package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"flashsale/internal/backend"
	"flashsale/internal/strategy"
)

type etcdAuthCmd struct {
	backend.Servers
	RootPassword string        `name:"etcd-root-password" exact:"" required:"" placeholder:"PASSWORD" help:"Password of etcd's user root, which no replica needs. Set it by FLASHSALE_ETCD_ROOT_PASSWORD or --config rather than here."`
	StartTimeout time.Duration `default:"60s" help:"Maximum wait for etcd."`
}

func (c *etcdAuthCmd) Run(ctx context.Context, s streams) error {
	row, err := strategy.Find(strategy.Default)
	if err == nil {
		err = backend.Check(row, &c.Servers)
	}
	if err != nil {
		return err
	}
	if c.EtcdUsername == "" || c.EtcdPassword == "" || c.EtcdUsername == "root" {
		return errors.New("--etcd-username and --etcd-password must be set, and name the service's user, not root")
	}
	what := backend.Address(row, &c.Servers)
	err = await(ctx, slog.New(slog.NewTextHandler(s.err, nil)), what, c.StartTimeout, func(ctx context.Context) error {
		err := c.RequireEtcdPasswords(ctx, c.RootPassword)
		if errors.Is(err, rpctypes.ErrAuthFailed) {
			return final{fmt.Errorf("%s: %w; correct --etcd-root-password", what, err)}
		}
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "etcd requires a password; user %s may read and write %s*\n", c.EtcdUsername, c.Prefix)
	return err
}
