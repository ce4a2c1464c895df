package compose_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	_ "go.etcd.io/etcd/etcdctl/v3/ctlv3"   // what startEtcd builds is of go.mod's version
	_ "go.etcd.io/etcd/server/v3/etcdmain" // likewise
	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

// TestStackOutlivesAReplica runs what docker compose would run, each part with the
// command and the environment that stand in the file: etcd's own program, what creates
// the tables and the users, three replicas and the proxy. MySQL is the one of the tests,
// with the file's accounts, and addresses are this machine's.
// Buyers order by the proxy while a replica is killed, and while another one ends:
// each of them is served.
func TestStackOutlivesAReplica(t *testing.T) {
	t.Parallel()
	s := startStack(t)
	admin := *s.project.Services["api"].Environment["FLASHSALE_ADMIN_TOKEN"]
	status, body := s.administer(t, http.MethodPut, "/v1/admin/skus/lamp", admin, `{"name":"Lamp","price_cents":100,"currency":"EUR","units":100000}`)
	if status != http.StatusCreated {
		t.Fatalf("create SKU: %d %s", status, body)
	}
	s.refuseStrangers(t)
	s.seesEtcd(t)
	made, again := s.sale(t, "killed", func() { s.kill(0) })
	t.Logf("%d orders while a replica was killed, %d tries more", made, again)
	// The killed one is back, as Docker would start it, and is asked again.
	if err := s.replicas[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.proxy.dns.know(s.addresses...)
	made += s.drainUnseen(t)
	status, body = s.administer(t, http.MethodGet, "/v1/admin/audit", admin, "")
	var audit struct {
		OK   bool `json:"ok"`
		SKUs []struct{ Reserved int }
	}
	if err := json.Unmarshal(body, &audit); err != nil || status != http.StatusOK {
		t.Fatalf("audit: %d %s %v", status, body, err)
	}
	if !audit.OK || len(audit.SKUs) != 1 || audit.SKUs[0].Reserved != made {
		t.Errorf("%d orders were answered 201, the audit says %s", made, body)
	}
}

// refuseStrangers attacks etcd as someone does who reaches it: the limit of one request
// an hour would stop every customer.
func (s *stack) refuseStrangers(t *testing.T) {
	t.Helper()
	etcd := environment(s.project.Services["api"], s.hosts)["FLASHSALE_ETCD_ENDPOINTS"]
	for user, want := range map[string]string{"": "user name is empty", "flashsale:guessed": "authentication failed", "root:root": "authentication failed"} {
		put := exec.CommandContext(t.Context(), s.etcdctl, "--endpoints="+etcd,
			"--dial-timeout="+patience.String(), "--command-timeout="+patience.String(), "put", "flashsale/flashsale/config/rate-limit-customer", "1/1h")
		put.Env = []string{"ETCDCTL_USER=" + user}
		if out, err := put.CombinedOutput(); err == nil || !strings.Contains(string(out), want) {
			t.Errorf("etcdctl put by %q: %v, want %s\n%s", user, err, want, out)
		}
	}
	for _, name := range []string{"etcd-1", "etcd-2", "etcd-3"} {
		node := s.project.Services[name]
		err := eventually(func() error { return s.healthy(t.Context(), node, environment(node, s.hosts)) })
		if err != nil {
			t.Errorf("%s is not healthy now that it requires passwords: %v", name, err)
		}
	}
}

// seesEtcd checks that the replicas, whose user in etcd has few rights, report what
// Prometheus cannot ask etcd for.
func (s *stack) seesEtcd(t *testing.T) {
	t.Helper()
	for _, metrics := range s.metrics {
		// A replica leaves them out for a while after a read of etcd that took too long.
		err := eventually(func() error {
			status, body, err := get(t.Context(), metrics)
			for _, name := range []string{"database_bytes", "quota_bytes", "alarms"} {
				if err == nil && (status != http.StatusOK || !strings.Contains(string(body), "\nflashsale_etcd_"+name)) {
					err = fmt.Errorf("GET %s has no flashsale_etcd_%s: %d", metrics, name, status)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// eventually tries until there is no error, and returns the last one: on a busy machine a
// single try may take too long for a server's or a client's own time-out.
func eventually(try func() error) (err error) {
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		if err = try(); err == nil || time.Now().After(end) {
			return err
		}
	}
}

// drainUnseen ends a replica in the sight of the proxy, which costs nobody a second
// try, and says how many orders were made. Where a machine has other things to do an
// order may time out by itself, or all replicas may seem to be gone: then another
// one is told to end.
func (s *stack) drainUnseen(t *testing.T) (made int) {
	t.Helper()
	const tries = 3
	for try := range tries {
		ending := s.replicas[1+try%2]
		more, again := s.sale(t, fmt.Sprint("drained-", try), func() {
			// stop_grace_period is longer than what Stop would give.
			if err := errors.Join(ending.Signal(syscall.SIGTERM), ending.Wait(t.Context())); err != nil {
				t.Error(err)
			}
		})
		made += more
		t.Logf("%d orders while a replica ended, %d tries more", more, again)
		if again == 0 {
			return made
		}
		if err := ending.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.proxy.await(t, http.StatusOK)
	}
	t.Errorf("orders had to be asked for again in each of %d tries", tries)
	return made
}

// sale lets buyers order by the proxy, has a fault in the middle of it, and goes on
// until it is over. It says how many orders were made, in how many tries more.
func (s *stack) sale(t *testing.T, name string, fault func()) (made, again int) {
	t.Helper()
	const buyers, least = 8, 25
	var sold, repeated atomic.Int32
	over := make(chan struct{})
	var all errgroup.Group
	for buyer := range buyers {
		token := s.token(t, fmt.Sprintf("%s-%d", name, buyer))
		all.Go(func() error {
			for n := 0; ; n++ {
				select {
				case <-over:
					if n >= least {
						return nil
					}
				default:
				}
				tries, err := s.order(t, token, fmt.Sprintf("key-%d", n))
				if err != nil {
					return err
				}
				repeated.Add(int32(tries - 1))
				if sold.Add(1) == buyers*least/3 {
					all.Go(func() error { defer close(over); fault(); return nil })
				}
			}
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	return int(sold.Load()), int(repeated.Load())
}

// stack is docker-compose.yml on this machine.
type stack struct {
	project   *types.Project
	hosts     *strings.Replacer // this machine's addresses for the file's
	etcdctl   string
	replicas  []*sandbox.Process
	addresses []string
	metrics   []string // for Prometheus
	proxy     *proxy
}

func startStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{project: mustLoad(t)}
	api := s.project.Services["api"]
	// The accounts of the file are MySQL's, not MariaDB's.
	servers := sandboxtest.Start(t, sandbox.Config{MySQL: true, Database: sandbox.RealMySQL})
	if _, err := servers.CreateDatabase(t.Context(), "flashsale"); err != nil {
		t.Fatal(err)
	}
	createAccounts(t, s.project, servers.MySQL)
	compareRights(t, servers)
	s.hosts = s.startEtcd(t)
	program := sandboxtest.Build(t, "api")
	for _, name := range slices.Sorted(maps.Keys(api.DependsOn)) {
		s.runOnce(t, program, s.project.Services[name], servers.MySQL)
	}
	// Replicas have an address each and the same ports, as containers have.
	_, port, _ := net.SplitHostPort(sandboxtest.ReservePort(t))
	_, internal, _ := net.SplitHostPort(sandboxtest.ReservePort(t))
	s.replicas = make([]*sandbox.Process, api.GetScale())
	group, ctx := errgroup.WithContext(t.Context())
	for i := range s.replicas {
		address := fmt.Sprintf("127.37.%d.1", i+1)
		s.addresses = append(s.addresses, address)
		env := environment(api, s.hosts)
		env["FLASHSALE_ADDR"] = address + strings.Replace(env["FLASHSALE_ADDR"], ":8080", ":"+port, 1)
		env["FLASHSALE_INTERNAL_ADDR"] = address + strings.Replace(env["FLASHSALE_INTERNAL_ADDR"], ":8081", ":"+internal, 1)
		env["FLASHSALE_MYSQL_DSN"] = here(t, env["FLASHSALE_MYSQL_DSN"], servers.MySQL)
		s.metrics = append(s.metrics, "http://"+env["FLASHSALE_INTERNAL_ADDR"]+"/metrics")
		group.Go(func() (err error) {
			s.replicas[i], err = sandbox.StartProcess(ctx, sandbox.ProcessConfig{
				Name: "replica " + address, Argv: append([]string{program}, api.Command...), Env: list(env),
				Ready: func(ctx context.Context) error {
					// "CMD", "/api", and its arguments, in the replica's environment.
					check := exec.CommandContext(ctx, program, api.HealthCheck.Test[2:]...)
					check.Env = list(env)
					out, err := check.CombinedOutput()
					if err != nil {
						return fmt.Errorf("%w: %s", err, out)
					}
					return nil
				},
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for i, replica := range s.replicas {
			if t.Failed() {
				t.Logf("replica %s logged last:\n%s", s.addresses[i], replica.LogTail(20))
			}
			_ = replica.Stop(context.Background()) // the first may have been killed
		}
	})
	// The buyers of this test are one address, which has no limit, like the load test's.
	s.proxy = startProxy(t, port, internal, edit{"acl ours src 172.30.37.0/24", "acl ours src 127.0.0.1"})
	s.proxy.dns.know(s.addresses...)
	s.proxy.await(t, http.StatusOK)
	return s
}

// createAccounts has MySQL's accounts made as the image does, by a server that has an
// account of the service's name already: here it is called service.
func createAccounts(t *testing.T, project *types.Project, server *sandbox.MySQL) {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "mysql"), []byte("#!/bin/sh\nexec cat\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	mysql := project.Services["mysql"]
	var script string
	for _, volume := range mysql.Volumes {
		if strings.HasPrefix(volume.Target, "/docker-entrypoint-initdb.d/") {
			script = volume.Source
		}
	}
	cmd := exec.CommandContext(t.Context(), script)
	cmd.Env = append(list(environment(mysql, strings.NewReplacer())), "PATH="+folder+":"+os.Getenv("PATH"))
	statements, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	execSQL(t, server, strings.Split(strings.TrimSpace(strings.ReplaceAll(string(statements), "'flashsale'@", "'service'@")), ";\n")...)
}

func execSQL(t *testing.T, server *sandbox.MySQL, statements ...string) {
	t.Helper()
	db, err := sql.Open("mysql", server.DSN(""))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range statements {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// compareRights compares the service's account with that of all other tests.
func compareRights(t *testing.T, servers *sandbox.Stack) {
	t.Helper()
	dsn, err := servers.CreateAccount(t.Context(), "flashsale", "tested")
	if err != nil {
		t.Fatal(err)
	}
	own, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	admin, err := sql.Open("mysql", servers.MySQL.DSN(""))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	tested := grants(t, own, "SHOW GRANTS", "`tested`@`127.0.0.1`")
	// Only members of a group need it.
	tested = slices.DeleteFunc(tested, func(grant string) bool { return strings.Contains(grant, "replication_group_members") })
	if got := grants(t, admin, "SHOW GRANTS FOR 'service'", "`service`@`%`"); !slices.Equal(got, tested) {
		t.Errorf("the service's account has %q, tests have %q", got, tested)
	}
}

// grants returns an account's rights, without its name.
func grants(t *testing.T, db *sql.DB, query, account string) (all []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var grant string
		if err := rows.Scan(&grant); err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.TrimSuffix(grant, " TO "+account))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// here is a DSN of the file, at this machine's server.
func here(t *testing.T, dsn string, server *sandbox.MySQL) string {
	t.Helper()
	account, path, _ := strings.Cut(dsn, "@")
	_, database, _ := strings.Cut(path, "/")
	_, at, found := strings.Cut(server.DSN(database), "@")
	if !found || database == "" {
		t.Fatalf("the DSN of the file is %s", dsn)
	}
	if password, service := strings.CutPrefix(account, "flashsale:"); service {
		account = "service:" + password // see createAccounts
	}
	return account + "@" + at
}

// runOnce runs a service that ends.
func (s *stack) runOnce(t *testing.T, program string, service types.ServiceConfig, server *sandbox.MySQL) {
	t.Helper()
	env := environment(service, s.hosts)
	if dsn := env["FLASHSALE_MYSQL_DSN"]; dsn != "" {
		env["FLASHSALE_MYSQL_DSN"] = here(t, dsn, server)
	}
	cmd := exec.CommandContext(t.Context(), program, service.Command...)
	cmd.Env = list(env)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", service.Name, err, out)
	}
}

// startEtcd runs the file's three nodes until they are healthy, and returns what their
// addresses are here.
func (s *stack) startEtcd(t *testing.T) *strings.Replacer {
	t.Helper()
	bin, project := t.TempDir(), s.project
	program := filepath.Join(bin, "etcd")
	s.etcdctl = filepath.Join(bin, "etcdctl")
	for program, module := range map[string]string{program: "server", s.etcdctl: "etcdctl"} {
		build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", program, "go.etcd.io/etcd/"+module+"/v3")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", filepath.Base(program), err, out)
		}
	}
	var here []string
	names := []string{"etcd-1", "etcd-2", "etcd-3"}
	for _, name := range names {
		here = append(here, name+":2379", sandboxtest.ReservePort(t), name+":2380", sandboxtest.ReservePort(t))
	}
	hosts := strings.NewReplacer(here...)
	group, ctx := errgroup.WithContext(t.Context())
	for _, name := range names {
		node := project.Services[name]
		env := environment(node, hosts)
		env["ETCD_DATA_DIR"] = filepath.Join(t.TempDir(), "data")
		env["ETCD_LISTEN_CLIENT_URLS"] = env["ETCD_ADVERTISE_CLIENT_URLS"]
		env["ETCD_LISTEN_PEER_URLS"] = env["ETCD_INITIAL_ADVERTISE_PEER_URLS"]
		group.Go(func() error {
			process, err := sandbox.StartProcess(ctx, sandbox.ProcessConfig{
				Name: name, Argv: append([]string{program}, node.Command[1:]...), Env: list(env),
				Ready: func(ctx context.Context) error { return s.healthy(ctx, node, env) },
			})
			if err == nil {
				t.Cleanup(process.Kill)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return hosts
}

// healthy runs the health check of a node of etcd.
func (s *stack) healthy(ctx context.Context, node types.ServiceConfig, env map[string]string) error {
	// "CMD", "/usr/local/bin/etcdctl", and its arguments.
	args := strings.NewReplacer("http://127.0.0.1:2379", env["ETCD_ADVERTISE_CLIENT_URLS"]).Replace(strings.Join(node.HealthCheck.Test[2:], " "))
	check := exec.CommandContext(ctx, s.etcdctl, strings.Fields(args)...)
	check.Env = []string{"ETCDCTL_USER=" + env["ETCDCTL_USER"], "ETCDCTL_PASSWORD=" + env["ETCDCTL_PASSWORD"]}
	if out, err := check.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// environment is a service's, with this machine's addresses.
func environment(service types.ServiceConfig, hosts *strings.Replacer) map[string]string {
	env := map[string]string{}
	for name, value := range service.Environment {
		if value != nil {
			env[name] = hosts.Replace(*value)
		}
	}
	return env
}

func list(env map[string]string) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		all = append(all, name+"="+env[name])
	}
	return all
}

// kill ends a replica at once. Docker's name server forgets it a little later.
func (s *stack) kill(i int) {
	s.replicas[i].Kill()
	s.proxy.dns.know(slices.Delete(slices.Clone(s.addresses), i, i+1)...)
}

func (s *stack) token(t *testing.T, customer string) string {
	t.Helper()
	secret := *s.project.Services["api"].Environment["FLASHSALE_JWT_SECRET"]
	return sandboxtest.Token(t, secret, map[string]any{"sub": customer})
}

// order asks for one unit, again with the same key where it is told to, until it
// has it.
func (s *stack) order(t *testing.T, token, key string) (tries int, err error) {
	end := time.Now().Add(patience)
	for tries = 1; ; tries++ {
		status, body := s.call(t, http.MethodPost, "/v1/orders", token, key, `{"sku":"lamp","quantity":1}`)
		switch {
		case status == http.StatusCreated:
			return tries, nil
		case status != http.StatusServiceUnavailable && status != http.StatusGatewayTimeout:
			return tries, fmt.Errorf("order %s: %d %s", key, status, body)
		case time.Now().After(end):
			return tries, fmt.Errorf("order %s: still %d %s after %s", key, status, body, patience)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// administer is call for an administrator, again while no replica is available: on a busy
// machine their answers to the proxy's checks may be late. Such a call applied nothing.
func (s *stack) administer(t *testing.T, method, path, token, body string) (status int, answer []byte) {
	t.Helper()
	_ = eventually(func() error {
		if status, answer = s.call(t, method, path, token, "", body); status == http.StatusServiceUnavailable {
			return errors.New("unavailable")
		}
		return nil
	})
	return status, answer
}

// call sends a request to the proxy. One that is not answered at all is status 0:
// the proxy stays, and answers each.
func (s *stack) call(t *testing.T, method, path, token, key, body string) (status int, answer []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.proxy.url+path, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, nil
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/json")
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Error(err)
		return 0, nil
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	return response.StatusCode, answer
}
