package backend

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"flashsale/internal/doctor"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/internal/strategy"
)

// examine returns the report on the server of a strategy.
func examine(t *testing.T, name string, servers Servers) doctor.Report {
	t.Helper()
	s, err := strategy.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	if servers.Prefix == "" {
		servers.Prefix = "flashsale/"
	}
	return Examine(t.Context(), s, &servers, "shop")
}

// expectHealthy fails if the report has a warning or a fault.
func expectHealthy(t *testing.T, report doctor.Report) {
	t.Helper()
	if wrong := append(report.With(doctor.Fault), report.With(doctor.Warning)...); len(wrong) > 0 || len(report) == 0 {
		t.Errorf("a healthy server: got %+v", wrong)
	}
}

// expect fails unless the report has such a finding, with all texts and with advice.
func expect(t *testing.T, report doctor.Report, severity doctor.Severity, check string, wants ...string) {
	t.Helper()
	for _, f := range report.With(severity) {
		all := f.Do != "" && strings.HasPrefix(f.Check, check)
		for _, want := range wants {
			all = all && strings.Contains(f.String(), want)
		}
		if all {
			return
		}
	}
	t.Errorf("no %s of %s with %q: %+v", severity, check, wants, report)
}

func etcdAt(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestExamineFindsFaultsOfEtcd(t *testing.T) {
	t.Parallel()
	const quota = 1 << 20
	program := sandboxtest.Build(t, "etcdnode")
	stack := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 3, EtcdProgram: []string{program}, EtcdQuota: quota})
	servers := Servers{EtcdEndpoints: stack.EtcdEndpoints()}
	client := etcdAt(t, stack.Etcd[0].Endpoint)
	expectHealthy(t, examine(t, "etcd", servers))
	if answer, err := client.Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithCountOnly()); err != nil || answer.Count != 0 {
		t.Errorf("Examine wrote %d keys, %v", answer.Count, err)
	}

	stack.Etcd[2].Kill()
	report := examine(t, "etcd", servers)
	expect(t, report, doctor.Warning, "members", "2 of 3", stack.Etcd[2].Endpoint)
	if err := report.Err(); err != nil {
		t.Errorf("with two of three nodes: %v", err)
	}
	if err := stack.Etcd[2].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}

	// etcd refuses the write that would exceed the quota, and all later ones.
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = client.Put(t.Context(), fmt.Sprint("elsewhere/", i), strings.Repeat("x", quota/16))
	}
	if err == nil {
		t.Fatal("100 writes did not fill etcd")
	}
	report = examine(t, "etcd", servers)
	expect(t, report, doctor.Fault, "alarms", "NOSPACE", "etcd's upkeep")
	expect(t, report, doctor.Fault, "writes", "space exceeded", "compact")
	expect(t, report, doctor.Warning, "size", "of a quota of 1.0 MiB")
	usage, err := ReadUsage(t.Context(), client)
	for until := time.Now().Add(10 * time.Second); err == nil && usage.Size < quota/2 && time.Now().Before(until); {
		usage, err = ReadUsage(t.Context(), client) // etcd writes its file about 100 ms later
	}
	if err != nil || usage.Quota != quota || usage.Size < quota/2 || len(usage.Alarms) != 1 || usage.Alarms[0] != "NOSPACE" {
		t.Errorf("ReadUsage returned %+v, %v", usage, err)
	}

	for _, node := range stack.Etcd[1:] {
		node.Kill()
	}
	report = examine(t, "etcd", Servers{EtcdEndpoints: servers.EtcdEndpoints[:1]})
	expect(t, report, doctor.Fault, "answers", "does not accept writes", "more than half")
	stack.Etcd[0].Kill()
	expect(t, examine(t, "etcd", servers), doctor.Fault, "answers", "start it")
}

func TestExamineFindsMissingRightsInEtcd(t *testing.T) {
	t.Parallel()
	stack := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1})
	client := etcdAt(t, stack.EtcdEndpoints()...)
	ctx := t.Context()
	for _, do := range []func() error{
		func() error { _, err := client.UserAdd(ctx, "root", "secret"); return err },
		func() error { _, err := client.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := client.RoleAdd(ctx, "elsewhere"); return err },
		func() error {
			_, err := client.RoleGrantPermission(ctx, "elsewhere", "elsewhere/", "elsewhere0", clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := client.UserAdd(ctx, "shop", "secret"); return err },
		func() error { _, err := client.UserGrantRole(ctx, "shop", "elsewhere"); return err },
		func() error { _, err := client.AuthEnable(ctx); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	servers := Servers{EtcdEndpoints: stack.EtcdEndpoints()}
	expect(t, examine(t, "etcd", servers), doctor.Fault, "answers", "--etcd-username")
	servers.EtcdUsername, servers.EtcdPassword = "shop", "wrong"
	expect(t, examine(t, "etcd", servers), doctor.Fault, "answers", "--etcd-password")
	servers.EtcdPassword = "secret"
	expect(t, examine(t, "etcd", servers), doctor.Fault, "writes", "let its user read and write")
	servers.Prefix = "elsewhere/"
	expectHealthy(t, examine(t, "etcd", servers))
}

func TestExamineFindsFaultsOfRedis(t *testing.T) {
	tier.OnlyTestAll(t, "Redis")
	t.Parallel()
	nodes, err := sandbox.StartRedisNodes(t.Context(), 2, sandbox.RedisConfig{AppendAlways: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, node := range nodes {
			if err := node.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	servers := Servers{RedisAddrs: []string{nodes[0].Addr}}
	client := redis.NewClient(&redis.Options{Addr: nodes[0].Addr})
	t.Cleanup(func() { _ = client.Close() })
	set := func(name, value string) {
		t.Helper()
		if err := client.ConfigSet(t.Context(), name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	expectHealthy(t, examine(t, "redis", servers))
	if n, err := client.DBSize(t.Context()).Result(); err != nil || n != 0 {
		t.Errorf("Examine wrote %d keys, %v", n, err)
	}
	set("appendonly", "no")
	set("maxmemory-policy", "allkeys-lru")
	report := examine(t, "redis", servers)
	expect(t, report, doctor.Warning, "persistence", "appendonly")
	expect(t, report, doctor.Warning, "eviction", "allkeys-lru", "noeviction")
	set("maxmemory-policy", "noeviction")
	set("maxmemory", "1")
	expect(t, examine(t, "redis", servers), doctor.Fault, "writes", "OOM", "raise maxmemory")
	set("maxmemory", "0")
	host, port, _ := net.SplitHostPort(nodes[1].Addr)
	if err := client.ReplicaOf(t.Context(), host, port).Err(); err != nil {
		t.Fatal(err)
	}
	report = examine(t, "redis", servers)
	expect(t, report, doctor.Fault, "role", "replica of "+nodes[1].Addr)
	expect(t, report, doctor.Fault, "writes", "READONLY", "primary")
	set("requirepass", "secret")
	expect(t, examine(t, "redis", servers), doctor.Fault, "answers", "NOAUTH", "--redis-addrs")
	three := Servers{RedisAddrs: []string{nodes[1].Addr, nodes[1].Addr, "127.0.0.1:1"}}
	report = examine(t, "redlock", three)
	expect(t, report, doctor.Warning, "answers", "127.0.0.1:1", "more than half")
	three.RedisAddrs[1] = "127.0.0.1:2"
	expect(t, examine(t, "redlock", three), doctor.Fault, "answers", "127.0.0.1:1")
}

func TestExamineFindsFaultsOfMemcached(t *testing.T) {
	tier.OnlyTestAll(t, "memcached")
	t.Parallel()
	server, err := sandbox.StartMemcached(t.Context(), sandbox.MemcachedConfig{Megabytes: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	servers := Servers{MemcachedAddr: server.Addr}
	expectHealthy(t, examine(t, "memcached", servers))
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	item := strings.Repeat("x", 10_000)
	for i := range 500 {
		fmt.Fprintf(conn, "set k%d 0 0 %d noreply\r\n%s\r\n", i, len(item), item)
	}
	fmt.Fprint(conn, "quit\r\n")
	if _, err := io.ReadAll(conn); err != nil { // until the server has handled all of them
		t.Fatal(err)
	}
	expect(t, examine(t, "memcached", servers), doctor.Warning, "evictions", "second holder")
	server.Kill()
	expect(t, examine(t, "memcached", servers), doctor.Fault, "answers", "refused")
}

func TestExamineFindsFaultsOfZooKeeper(t *testing.T) {
	tier.OnlyTestAll(t, "ZooKeeper")
	t.Parallel()
	ensemble, err := sandbox.StartZooKeeper(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ensemble.Close(); err != nil {
			t.Error(err)
		}
	})
	servers := Servers{ZooKeeperServers: ensemble.Addrs()}
	expectHealthy(t, examine(t, "zookeeper", servers))
	ensemble.Nodes[0].Kill()
	expect(t, examine(t, "zookeeper", servers), doctor.Warning, "answers", ensemble.Nodes[0].Addr)
	ensemble.Nodes[1].Kill()
	sandboxtest.Eventually(t, "2 of 3 silent servers", func() bool { // the third is silent for a moment too
		return strings.Contains(examine(t, "zookeeper", servers).Err().Error(), "2 of 3")
	})
	expect(t, examine(t, "zookeeper", servers), doctor.Fault, "answers", "2 of 3")
}

func TestExamineFindsFaultsOfKubernetes(t *testing.T) {
	tier.OnlyTestAll(t, "Kubernetes")
	t.Parallel()
	stack := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1})
	server, err := sandbox.StartKubernetes(t.Context(), stack.EtcdEndpoints())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	token, ca := t.TempDir()+"/token", t.TempDir()+"/ca"
	write(t, token, server.Token)
	write(t, ca, string(server.CA))
	servers := Servers{KubeServer: server.URL, KubeTokenFile: token, KubeCA: ca, KubeNamespace: "default"}
	expectHealthy(t, examine(t, "kubernetes", servers))
	expect(t, examine(t, "kubernetes-stocklock", servers), doctor.Fault, "custom resource", "stocklock.yaml")
	kubectl := func(args ...string) string {
		t.Helper()
		out, err := server.Kubectl(t.Context(), "", append([]string{"-n", "default"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	const manifests = "../../deploy/kubernetes/locks/"
	kubectl("apply", "-f", manifests+"stocklock.yaml", "-f", manifests+"rbac.yaml")
	kubectl("wait", "--for=condition=Established", "crd/stocklocks.flashsale.internal", "--timeout=60s")
	write(t, token, strings.TrimSpace(kubectl("create", "token", "flashsale")))
	sandboxtest.Eventually(t, "the custom resource", func() bool { // established comes before served
		return examine(t, "kubernetes-stocklock", servers).Err() == nil
	})
	expectHealthy(t, examine(t, "kubernetes-stocklock", servers))
	kubectl("patch", "role", "flashsale-locks", "--type=json", "-p", `[{"op":"remove","path":"/rules/3"}]`)
	sandboxtest.Eventually(t, "the warning", func() bool { // the server caches roles
		return len(examine(t, "kubernetes-stocklock", servers).With(doctor.Warning)) > 0
	})
	expect(t, examine(t, "kubernetes-stocklock", servers), doctor.Warning, "events", "create events, patch events", "rbac.yaml")
	write(t, token, server.Token)
	servers.KubeNamespace = "nowhere"
	expect(t, examine(t, "kubernetes", servers), doctor.Fault, "namespace", "create namespace nowhere")
	write(t, token, "of another cluster")
	expect(t, examine(t, "kubernetes", servers), doctor.Fault, "answers", "401", "--kube-token-file")
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
