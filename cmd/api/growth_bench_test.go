package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/backend"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// BenchmarkEtcdGrowth prints by how many bytes an order grows etcd's database without
// compaction: for one hot SKU, for several, and for a low rate over many, which costs
// most. docs/operations.md has the results. They do not depend on the machine, since
// orders come at a fixed rate:
//
//	go test ./cmd/api -run '^$' -bench EtcdGrowth -benchtime 4500x
func BenchmarkEtcdGrowth(b *testing.B) {
	for _, load := range []struct{ skus, rate int }{{1, 1000}, {50, 1000}, {500, 190}} {
		b.Run(fmt.Sprintf("skus=%d/rate=%d", load.skus, load.rate), func(b *testing.B) {
			own := sandboxtest.Start(b, sandbox.Config{EtcdNodes: 1})
			dsn, err := servers.MySQL.CreateDatabase(b.Context(), fmt.Sprintf("growth%d_%d", load.skus, databases.Add(1)))
			if err != nil {
				b.Fatal(err)
			}
			var replicas []*sandbox.Replica
			for _, name := range []string{"a", "b"} {
				cfg := replicaConfig(dsn, name, strategy.Default)
				cfg.EtcdEndpoints = own.EtcdEndpoints()
				replicas = append(replicas, sandboxtest.StartReplica(b, cfg))
			}
			for i := range load.skus {
				ask(b, "PUT", fmt.Sprint(replicas[0].URL, "/v1/admin/skus/sku-", i), adminToken, "",
					`{"name":"A thing","price_cents":999,"currency":"EUR","units":1000000}`)
			}
			etcd, err := clientv3.New(clientv3.Config{Endpoints: own.EtcdEndpoints(), Logger: zap.NewNop()})
			if err != nil {
				b.Fatal(err)
			}
			defer etcd.Close()
			before := etcdInUse(b, etcd)
			var buyers errgroup.Group
			buyers.SetLimit(64)
			tick := time.NewTicker(time.Second / time.Duration(load.rate))
			defer tick.Stop()
			n := 0
			for b.Loop() {
				<-tick.C
				i := n
				n++
				buyers.Go(func() error {
					token := customerToken(b, fmt.Sprint("buyer-", i))
					ask(b, "POST", replicas[i%2].URL+"/v1/orders", token, "key", fmt.Sprintf(`{"sku":"sku-%d","quantity":1}`, i*7919%load.skus))
					return nil
				})
			}
			if err := buyers.Wait(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(etcdInUse(b, etcd)-before)/float64(n), "etcd-B/order")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// etcdInUse returns the size once it is stable: the mirror writes after the orders, and
// etcd's pages follow its entries.
func etcdInUse(b *testing.B, etcd *clientv3.Client) int64 {
	b.Helper()
	for last := int64(-1); ; time.Sleep(time.Second) {
		usage, err := backend.ReadUsage(b.Context(), etcd)
		if err != nil {
			b.Fatal(err)
		}
		if usage.InUse == last {
			return last
		}
		last = usage.InUse
	}
}

// ask makes a call that must be answered 201.
func ask(b *testing.B, method, url, token, key, body string) {
	request, err := http.NewRequestWithContext(b.Context(), method, url, strings.NewReader(body))
	if err != nil {
		b.Error(err)
		return
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Idempotency-Key", key)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		b.Error(err)
		return
	}
	if err := response.Body.Close(); err != nil || response.StatusCode != http.StatusCreated {
		b.Errorf("%s %s: %d, %v", method, url, response.StatusCode, err)
	}
}
