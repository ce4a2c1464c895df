package settings_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/settings"
)

var servers *sandbox.Stack

func TestMain(m *testing.M) {
	sandboxtest.Main(m, sandbox.Config{EtcdNodes: 1}, &servers)
}

// patience is for a busy machine, where a test does not measure.
const patience = 30 * time.Second

var flags = settings.Values{Quantum: 50 * time.Millisecond, LogLevel: slog.LevelInfo}

var stores atomic.Int32

func newStore(t *testing.T, endpoints ...string) settings.Store {
	t.Helper()
	if len(endpoints) == 0 {
		endpoints = servers.EtcdEndpoints()
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(),
		// As a replica's: see package backend. gRPC's own waits grow to minutes.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: 500 * time.Millisecond}, MinConnectTimeout: 3 * time.Second,
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return settings.Store{Client: client, Prefix: fmt.Sprintf("flashsale/%s/%d/config/", t.Name(), stores.Add(1))}
}

// replica is what a replica has of the settings.
type replica struct {
	*settings.Watch
	log     *buffer
	applied chan settings.Values // every one, in order
}

// startReplica starts one with a connection of its own.
func startReplica(t *testing.T, store settings.Store) *replica {
	t.Helper()
	mine := newStore(t, store.Client.Endpoints()...)
	mine.Prefix = store.Prefix
	r := &replica{log: &buffer{}, applied: make(chan settings.Values, 1000)}
	r.Watch = settings.New(settings.Config{
		Store: mine, Flags: flags, Apply: func(v settings.Values) { r.applied <- v },
		Logger: slog.New(slog.NewTextHandler(r.log, nil)),
	})
	if err := r.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return r
}

// await waits until want is in force.
func (r *replica) await(t *testing.T, want settings.Values) {
	t.Helper()
	timeout := time.After(patience)
	var last settings.Values
	for {
		select {
		case last = <-r.applied:
			if last == want {
				return
			}
		case <-timeout:
			t.Fatalf("%+v never came to be in force; last was %+v", want, last)
		}
	}
}

// awaitReport waits until the report holds want, or is empty for "".
func (r *replica) awaitReport(t *testing.T, want string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		got := r.Report()
		if got == want || want != "" && strings.Contains(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the report is %q, want %q", got, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// put writes what Set would refuse.
func put(t *testing.T, store settings.Store, name, value string) {
	t.Helper()
	if _, err := store.Client.Put(t.Context(), store.Prefix+name, value); err != nil {
		t.Fatal(err)
	}
}

// set writes a valid value, whatever stands there.
func set(t *testing.T, store settings.Store, name, value string) {
	t.Helper()
	e, err := store.Get(t.Context(), name)
	if err == nil {
		_, err = store.Set(t.Context(), name, value, e.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
}

type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) count(part string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), part)
}
