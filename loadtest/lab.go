package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"flashsale/loadtest/lab"
)

type labCmd struct {
	databaseFlags
	apiFlag
	Addr string `default:"127.0.0.1:8090" placeholder:"HOST:PORT" help:"Where the pages are served (default ${default}). Whoever reaches it can start and stop servers on this machine: use a loopback address."`
}

const (
	labEnds       = 60 * time.Second // how long servers and replicas may take to end
	labHeaderWait = 5 * time.Second
)

// Run serves the lab until ctx ends.
func (c *labCmd) Run(ctx context.Context, s streams) (err error) {
	if err := c.find(); err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("--addr: %w", err)
	}
	pages, err := lab.New(lab.Config{API: c.API, Database: c.Database, Logger: slog.New(slog.NewTextHandler(s.err, nil))})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	server := &http.Server{Handler: pages, ReadHeaderTimeout: labHeaderWait}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	fmt.Fprintf(s.out, "The race lab: http://%s\n\nPress Ctrl-C to stop it.\n", l.Addr())
	select {
	case err = <-served:
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), labEnds)
	defer cancel()
	return errors.Join(err, pages.Close(end), server.Close())
}
