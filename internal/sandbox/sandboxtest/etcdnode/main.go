// Command etcdnode serves one etcd node. It is for tests that need none of the
// module's larger programs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"flashsale/internal/sandbox/etcdnode"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := etcdnode.Main(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
