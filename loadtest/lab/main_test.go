package lab

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"flashsale/internal/sandbox/etcdnode"
)

// TestMain also serves the nodes of etcd, which the lab starts as children of its own
// program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "etcd-node" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err := etcdnode.Main(ctx, os.Args[2:], os.Stderr)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}
