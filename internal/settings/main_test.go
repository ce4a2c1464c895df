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

// patience bounds the waits of tests that do not measure time.
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
		// As in a replica, see package backend: gRPC's default waits grow to minutes.
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

// replica is the settings of one replica.
type replica struct {
	*settings.Watch
	log     *buffer
	applied chan settings.Values // all of them, in order
}

// startReplica starts one with its own client.
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

// await waits until want applies.
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
			t.Fatalf("%+v was not applied; the last values are %+v", want, last)
		}
	}
}

// next waits for the next values that apply.
func (r *replica) next(t *testing.T) settings.Values {
	t.Helper()
	select {
	case v := <-r.applied:
		return v
	case <-time.After(patience):
		t.Fatal("no values were applied")
		return settings.Values{}
	}
}

// awaitReport waits until the report contains want; "" means an empty report.
func (r *replica) awaitReport(t *testing.T, want string) {
	t.Helper()
	sandboxtest.Eventually(t, fmt.Sprintf("the report %q", want), func() bool {
		got := r.Report()
		return got == want || want != "" && strings.Contains(got, want)
	})
}

// put writes any value, also one that Set refuses.
func put(t *testing.T, store settings.Store, name, value string) {
	t.Helper()
	if _, err := store.Client.Put(t.Context(), store.Prefix+name, value); err != nil {
		t.Fatal(err)
	}
}

// set writes a valid value over any revision.
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
