package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
)

// longTTL is how long others would wait for a lock that was not released: longer than
// any delay of a busy machine.
const longTTL = 30 * time.Second

// drainDelay is how long a draining replica continues to serve: long enough for the
// requests of a test.
const drainDelay = 10 * time.Second

func drainConfig(dsn, name string, delay time.Duration) sandbox.ReplicaConfig {
	cfg := replicaConfig(dsn, name, strategy.Default)
	cfg.Args = append(cfg.Args, "--lock-ttl="+longTTL.String(), "--drain-delay="+delay.String())
	return cfg
}

// leasesOf returns the leases of the locks that a replica holds or waits for.
func leasesOf(t *testing.T, database, replica string) (leases []clientv3.LeaseID) {
	t.Helper()
	for _, kv := range lockEntries(t, database) {
		var owner struct{ Replica string }
		if json.Unmarshal(kv.Value, &owner) == nil && owner.Replica == replica {
			leases = append(leases, clientv3.LeaseID(kv.Lease))
		}
	}
	return leases
}

// Three replicas sell one SKU, and one is stopped: its readiness fails, it serves for a
// while, and exits. Buyers that retry at another replica do not notice.
func TestDrainUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	database := openDB(t, dsn).Name
	ending := start(t, drainConfig(dsn, "a", drainDelay))
	staying := []*client{start(t, drainConfig(dsn, "b", 0)), start(t, drainConfig(dsn, "c", 0))}
	ending.putSKU("lamp", 1_000_000)
	if status, err := ending.order("lamp", "the first"); err != nil || status != http.StatusCreated {
		t.Fatalf("the first order: %d, %v", status, err)
	}
	b := startBuyers(t, 8, "lamp", ending) // no other replica becomes the seller
	b.await(50)
	var leases []clientv3.LeaseID
	for deadline := time.Now().Add(30 * time.Second); len(leases) == 0; leases = leasesOf(t, database, "a") {
		if time.Now().After(deadline) {
			t.Fatal("replica a does not sell")
		}
	}
	b.use(append(staying, ending)...)
	b.await(50)
	b.gap()
	told := time.Now()
	if err := ending.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// During the delay it is not ready, but alive, and serves.
	ending.awaitLog(`"msg":"draining"`)
	if status, checks := ending.readiness(); status != http.StatusServiceUnavailable || checks["replica"] != "draining" {
		t.Errorf("readiness while draining: %d %v", status, checks)
	}
	if status, _, err := ending.call("GET", "/healthz", "", "", ""); err != nil || status != http.StatusOK {
		t.Errorf("liveness while draining: %d, %v", status, err)
	}
	if status, err := ending.order("lamp", "ann at a"); err != nil || status != http.StatusCreated {
		t.Errorf("an order while draining: %d, %v", status, err)
	}
	b.use(staying...) // as a load balancer would
	if err := ending.Wait(t.Context()); err != nil {
		t.Errorf("the replica ended with %v", err)
	}
	took := time.Since(told)
	b.await(50)
	gap := b.gap()
	t.Logf("it ended %s after the signal; nobody could buy for %s", took.Round(time.Millisecond), gap.Round(time.Millisecond))
	if took < drainDelay || took > drainDelay+longTTL {
		t.Errorf("it ended %s after the signal, with a delay of %s", took, drainDelay)
	}
	if gap > longTTL/2 {
		t.Errorf("no order was placed for %s: the lock was not handed over", gap)
	}
	for _, lease := range slices.Compact(leases) {
		if left, err := openEtcd(t).TimeToLive(t.Context(), lease); err != nil || left.TTL != -1 {
			t.Errorf("the lease was not revoked: %+v, %v", left, err)
		}
	}
	b.check(dsn, 2) // and the first, and ann's
}

// Without a delay, buyers continue to send requests to the replica that stops.
func TestStopWithoutDelayLosesNothing(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	replicas := []*client{start(t, drainConfig(dsn, "a", 0)), start(t, drainConfig(dsn, "b", 0)), start(t, drainConfig(dsn, "c", 0))}
	replicas[0].putSKU("lamp", 1_000_000)
	b := startBuyers(t, 8, "lamp", replicas...)
	for _, c := range replicas[:2] {
		b.await(50)
		c.terminate()
	}
	b.await(50)
	b.check(dsn, 0)
}

// closedWithin is the limit that docs/operations.md states for closing, beside
// --drain-delay and --drain-timeout.
const closedWithin = 15 * time.Second

// If servers accept connections but do not answer, each close takes its time-out. The
// sum must not exceed what docs/operations.md states.
func TestStopIsBoundedWhenServersHang(t *testing.T) {
	t.Parallel()
	own := sandboxtest.Start(t, sandbox.Config{MySQL: true, EtcdNodes: 1})
	dsn, err := own.MySQL.CreateDatabase(t.Context(), "hang")
	if err != nil {
		t.Fatal(err)
	}
	const drainTimeout = 2 * time.Second
	cfg := drainConfig(dsn, "a", 0)
	cfg.EtcdEndpoints = own.EtcdEndpoints()
	cfg.Args = append(cfg.Args, "--drain-timeout="+drainTimeout.String())
	c := start(t, cfg)
	c.putSKU("lamp", 10)
	if status, err := c.order("lamp", "ann"); err != nil || status != http.StatusCreated {
		t.Fatalf("got %d, %v; want 201", status, err)
	}
	for _, server := range []*sandbox.Process{own.MySQL.Process, own.Etcd[0].Process} {
		if err := server.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Signal(syscall.SIGCONT) })
	}
	var inHand sync.WaitGroup
	defer inHand.Wait()
	inHand.Go(func() { _, _ = c.order("lamp", "bob") }) // nobody can serve it
	told := time.Now()
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err = c.Wait(t.Context())
	took := time.Since(told)
	t.Logf("it ended after %s: %v", took.Round(time.Millisecond), err)
	if err == nil || !strings.Contains(c.LogTail(20), "close lock") {
		t.Errorf("it ended with %v, want an error that the lock was not released", err)
	}
	if took > drainTimeout+closedWithin {
		t.Errorf("it ended after %s, want at most %s and %s", took, drainTimeout, closedWithin)
	}
}

// Steps of a round that hang share one time-out.
func TestStepsOfARoundShareOneTimeout(t *testing.T) {
	t.Parallel()
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	var r replica
	for _, name := range []string{"lock", "mirror", "replica lock"} {
		r.atClose(locksRound, name, hang)
	}
	began := time.Now()
	err := r.close()
	if took := time.Since(began); took < closeTimeout || took > 2*closeTimeout {
		t.Errorf("three steps that hang took %s, want %s", took, closeTimeout)
	}
	for _, name := range []string{"lock", "mirror", "replica lock"} {
		if err == nil || !strings.Contains(err.Error(), "close "+name) {
			t.Errorf("the error %v does not name %s", err, name)
		}
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	c := start(t, drainConfig(newDSN(t), "a", time.Hour))
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.awaitLog(`"msg":"draining"`)
	// It stops catching signals a moment after the first: signal until it has ended.
	deadline := time.Now().Add(30 * time.Second)
	for ended := false; !ended; {
		if err := c.Signal(syscall.SIGTERM); err != nil {
			break // it has ended
		}
		select {
		case <-c.Done():
			ended = true
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("the process did not end")
		}
	}
	if err := c.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "signal: terminated") {
		t.Errorf("it ended with %v", err)
	}
}

// Liveness queries no server: restarting a replica does not help an unavailable server.
// Readiness names the server, and recovers with it.
func TestReadinessFollowsTheServersAndLivenessDoesNot(t *testing.T) {
	t.Parallel()
	own := sandboxtest.Start(t, sandbox.Config{MySQL: true, EtcdNodes: 1})
	dsn, err := own.MySQL.CreateDatabase(t.Context(), "ready")
	if err != nil {
		t.Fatal(err)
	}
	cfg := replicaConfig(dsn, "a", strategy.Default)
	cfg.EtcdEndpoints = own.EtcdEndpoints()
	c := start(t, cfg)
	c.putSKU("lamp", 10)
	buy := func(customer string) {
		t.Helper()
		if status, err := c.order("lamp", customer); err != nil || status != http.StatusCreated {
			t.Errorf("%s: got %d, %v; want 201", customer, status, err)
		}
	}
	buy("ann")
	for i, server := range []struct {
		check string
		*sandbox.Process
	}{{"mysql", own.MySQL.Process}, {"etcd", own.Etcd[0].Process}} {
		server.Kill()
		c.awaitReady(http.StatusServiceUnavailable, server.check, "does not answer")
		if status, _, err := c.call("GET", "/healthz", "", "", ""); err != nil || status != http.StatusOK {
			t.Errorf("liveness without %s: %d, %v", server.check, status, err)
		}
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.awaitReady(http.StatusOK, server.check, "ok")
		buy(fmt.Sprint("customer ", i))
	}
	auditOK(t, dsn)
}

// awaitReady waits until readiness answers status and shows want for a check.
func (c *client) awaitReady(status int, check, want string) {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got, checks := c.readiness()
		if got == status && checks[check] == want {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("readiness: got %d, %v; want %d, %s: %s", got, checks, status, check, want)
		}
	}
}
