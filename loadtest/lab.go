package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"flashsale/loadtest/lab"
)

type labCmd struct {
	databaseFlags
	apiFlag
	Addr string `default:"127.0.0.1:8090" placeholder:"HOST:PORT" help:"Where the pages are served, on a loopback address (default ${default}; port 0 is a free port)."`
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
	l, err := listenLocally(ctx, c.Addr)
	if err != nil {
		return fmt.Errorf("--addr: %w", err)
	}
	pages, err := lab.New(lab.Config{API: c.API, Database: c.Database})
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

// listenLocally refuses addresses that other machines can reach: whoever reaches the lab
// can start and stop servers on this one.
func listenLocally(ctx context.Context, addr string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); host != "localhost" && !ip.IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address, such as 127.0.0.1:8090: whoever reaches the lab can start servers on this machine", addr)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is in use, perhaps by another lab; choose another port, or 0 for a free one", addr)
	}
	return l, err
}
