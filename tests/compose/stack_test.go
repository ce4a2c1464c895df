package compose_test

import (
	"context"
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
	_ "go.etcd.io/etcd/server/v3/etcdmain" // what startEtcd builds is of go.mod's version
	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

// TestStackOutlivesAReplica runs what docker compose would run, each part with the
// command and the environment that stand in the file: etcd's own program, three
// replicas and the proxy. Only MySQL is a MariaDB, and addresses are this machine's.
// Buyers order by the proxy while a replica is killed, and while another one ends:
// each of them is served.
func TestStackOutlivesAReplica(t *testing.T) {
	t.Parallel()
	s := startStack(t)
	admin := *s.project.Services["api"].Environment["FLASHSALE_ADMIN_TOKEN"]
	status, body := s.call(t, http.MethodPut, "/v1/admin/skus/lamp", admin, "", `{"name":"Lamp","price_cents":100,"currency":"EUR","units":100000}`)
	if status != http.StatusCreated {
		t.Fatalf("create SKU: %d %s", status, body)
	}
	made, again := s.sale(t, "killed", func() { s.kill(0) })
	t.Logf("%d orders while a replica was killed, %d tries more", made, again)
	// The killed one is back, as Docker would start it, and is asked again.
	if err := s.replicas[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.proxy.dns.know(s.addresses...)
	made += s.drainUnseen(t)
	status, body = s.call(t, http.MethodGet, "/v1/admin/audit", admin, "", "")
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
	replicas  []*sandbox.Process
	addresses []string
	proxy     *proxy
}

func startStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{project: mustLoad(t)}
	api := s.project.Services["api"]
	servers := sandboxtest.Start(t, sandbox.Config{MySQL: true})
	dsn, err := servers.MySQL.CreateDatabase(t.Context(), "flashsale")
	if err != nil {
		t.Fatal(err)
	}
	hosts := startEtcd(t, s.project)
	// Replicas have an address each and one port, as containers have.
	_, port, _ := net.SplitHostPort(sandboxtest.ReservePort(t))
	s.replicas = make([]*sandbox.Process, api.GetScale())
	program := sandboxtest.Build(t, "api")
	group, ctx := errgroup.WithContext(t.Context())
	for i := range s.replicas {
		address := fmt.Sprintf("127.37.%d.1", i+1)
		s.addresses = append(s.addresses, address)
		env := environment(api, hosts)
		env["FLASHSALE_ADDR"] = address + strings.Replace(env["FLASHSALE_ADDR"], ":8080", ":"+port, 1)
		env["FLASHSALE_MYSQL_DSN"] = dsn
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
	s.proxy = startProxy(t, port)
	s.proxy.dns.know(s.addresses...)
	s.proxy.await(t, http.StatusOK)
	return s
}

// startEtcd runs the file's three nodes, and returns what their addresses are here.
func startEtcd(t *testing.T, project *types.Project) *strings.Replacer {
	t.Helper()
	program := filepath.Join(t.TempDir(), "etcd")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", program, "go.etcd.io/etcd/server/v3")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build etcd: %v\n%s", err, out)
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
				Ready: func(ctx context.Context) error {
					status, body, err := get(ctx, env["ETCD_ADVERTISE_CLIENT_URLS"]+"/health")
					if err == nil && status != http.StatusOK {
						err = fmt.Errorf("GET /health: %d %s", status, body)
					}
					return err
				},
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
