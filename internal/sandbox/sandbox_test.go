package sandbox_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/leaks"
)

// roleVar makes the test's executable play another program's role.
const roleVar = "SANDBOX_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVar); role {
	case "":
		leaks.Main(m)
	case "parent":
		beParent()
	case "replica":
		beReplica()
	case "prober":
		beProber()
	case "node", "kept node":
		beNode(role == "kept node")
	default:
		panic("unknown role " + role)
	}
}

func TestStopLeavesNothingBehind(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	s := sandboxtest.Start(t, sandbox.Config{MySQL: true, EtcdNodes: 1})
	pids := pidsOf(s)
	if left := s.Left(); len(left) != 1 || left[0] != "folder "+s.Dir() {
		t.Errorf("before Stop: %v is left, want the folder", left)
	}
	s.Stop()
	s.Stop()
	if left := s.Left(); left != nil {
		t.Errorf("Stop left %v", left)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d still exists after Stop: %v", pid, err)
		}
	}
	wantEmpty(t, temp)
}

func TestServersDieWithTheirParent(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	parent := startParent(t, string(sandbox.Loopback))
	for _, pid := range parent.Pids {
		if !runs(pid) {
			t.Fatalf("server %d does not run", pid)
		}
	}
	parent.end(t, "kill")
	for _, pid := range parent.Pids {
		for began := time.Now(); runs(pid); time.Sleep(10 * time.Millisecond) {
			if time.Since(began) > 10*time.Second {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				t.Fatalf("server %d outlives its parent", pid)
			}
		}
	}

	// The next start removes the folder of the killed process.
	sandboxtest.Start(t, sandbox.Config{}).Stop()
	wantEmpty(t, temp)
}

// parent is another process with servers of its own.
type parent struct {
	Pids []int
	Addr string // of the database

	cmd *exec.Cmd
	in  io.Closer
}

// startParent starts a parent whose servers are on that kind of network.
func startParent(t *testing.T, network string) *parent {
	t.Helper()
	sandboxtest.NeedsDatabase(t)
	p := &parent{cmd: exec.Command(os.Args[0], sandboxtest.Build(t, "etcdnode"), network)}
	p.cmd.Env = append(os.Environ(), roleVar+"=parent")
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatalf("the parent did not start its servers: %v", err)
	}
	if err := json.Unmarshal(line, p); err != nil || len(p.Pids) != 2 {
		t.Fatalf("the parent wrote %s: %v", line, err)
	}
	return p
}

// end kills the parent, or makes it stop its servers.
func (p *parent) end(t *testing.T, how string) {
	t.Helper()
	if how == "kill" {
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	p.in.Close()
	_ = p.cmd.Wait() // an error if it was killed
}

// runs reports whether a process exists and has not ended. A process that has ended
// stays a zombie in a container whose init process does not reap orphans.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

func TestSweepSparesFoldersInUse(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	first := sandboxtest.Start(t, sandbox.Config{})
	sandboxtest.Start(t, sandbox.Config{})
	if _, err := os.Stat(first.Dir()); err != nil {
		t.Errorf("the first stack's folder after the second stack's start: %v", err)
	}
}

func TestUsersFolderIsKeptAndNeverReused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := sandboxtest.Start(t, sandbox.Config{Dir: dir, EtcdNodes: 1})
	s.Stop()
	if _, err := os.Stat(filepath.Join(dir, "etcd-1")); err != nil {
		t.Errorf("data in a user's folder after Stop: %v", err)
	}
	_, err := sandbox.Start(t.Context(), sandbox.Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("start in a used folder: got %v, want an error", err)
	}
}

func TestFailedStartStopsTheOthersAndShowsTheLog(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	_, err := sandbox.Start(t.Context(), sandbox.Config{
		MySQL:       true,
		EtcdNodes:   1,
		EtcdProgram: []string{sandboxtest.Build(t, "etcdnode"), "--no-such-flag"},
	})
	if err == nil {
		t.Fatal("etcd started with a wrong flag")
	}
	for _, want := range []string{"etcd-1 ended before it was ready", "exit status 1", "flag provided but not defined: -no-such-flag"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	}
	wantEmpty(t, temp)
}

func TestMissingServerIsExplained(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	_, err := sandbox.Start(t.Context(), sandbox.Config{MySQL: true, Database: sandbox.MariaDB})
	var missing *sandbox.MissingError
	if !errors.As(err, &missing) {
		t.Fatalf("got %v, want a MissingError", err)
	}
	if !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("%v does not wrap exec.ErrNotFound", err)
	}
	for _, want := range []string{missing.Program, "mariadb-server-core", "--mysql-dsn", "docker compose"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	}
}

func TestMySQLIsDurableAndAdmitsOneUser(t *testing.T) {
	s := sandboxtest.Start(t, sandbox.Config{MySQL: true, MaxConnections: 77})
	settings, err := s.MySQL.Settings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"innodb_flush_log_at_trx_commit": "1",
		"innodb_doublewrite":             "ON",
		"log_bin":                        "OFF",
		"innodb_lock_wait_timeout":       "1",
		"max_connections":                "77",
	} {
		if got := settings[name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	db := openDB(t, s.MySQL.DSN(""))
	var name, isolation string // the name is tx_isolation before MariaDB 11.1
	err = db.QueryRow("SHOW VARIABLES WHERE Variable_name IN ('tx_isolation', 'transaction_isolation')").Scan(&name, &isolation)
	if err != nil || isolation != "READ-COMMITTED" {
		t.Errorf("isolation %q, %v; want READ-COMMITTED", isolation, err)
	}

	cfg, err := mysql.ParseDSN(s.MySQL.DSN(""))
	if err != nil {
		t.Fatal(err)
	}
	cfg.User, cfg.Passwd = "root", ""
	var refused *mysql.MySQLError
	if err := openDB(t, cfg.FormatDSN()).Ping(); !errors.As(err, &refused) || refused.Number != 1045 {
		t.Errorf("root without a password: got %v, want error 1045", err)
	}
}

func TestMySQLKeepsItsDataAfterACrash(t *testing.T) {
	ctx := t.Context()
	s := sandboxtest.Start(t, sandbox.Config{MySQL: true})
	dsn, err := s.MySQL.CreateDatabase(ctx, "odd `name`")
	if err != nil {
		t.Fatal(err)
	}
	db := openDB(t, dsn)
	for _, query := range []string{"CREATE TABLE n (n INT PRIMARY KEY)", "INSERT INTO n VALUES (42)"} {
		if _, err := db.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	first := s.MySQL.Pid()
	s.MySQL.Kill()
	if err := s.MySQL.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if s.MySQL.Pid() == first {
		t.Errorf("pid %d is the same after a restart", first)
	}
	var n int
	if err := db.QueryRow("SELECT n FROM n").Scan(&n); err != nil || n != 42 {
		t.Errorf("got %d, %v; want 42", n, err)
	}
}

func TestProcessStops(t *testing.T) {
	const obeys, stubborn = "exec sleep 1000", "trap '' TERM; echo trapped; while :; do sleep 0.1; done" // a kill leaves its child
	start := func(t *testing.T, script string, ready func(context.Context) error) *sandbox.Process {
		t.Helper()
		p, err := sandbox.StartProcess(t.Context(), sandbox.ProcessConfig{
			Name: "script", Argv: []string{"sh", "-c", script}, Ready: ready,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		return p
	}
	t.Run("when asked", func(t *testing.T) {
		p := start(t, obeys, nil)
		if err := p.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		<-p.Done()
		if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("signal to a stopped process: got %v, want os.ErrProcessDone", err)
		}
		if err := p.Stop(t.Context()); err != nil {
			t.Errorf("second Stop: %v", err)
		}
	})
	t.Run("while paused", func(t *testing.T) {
		p := start(t, obeys, nil)
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		if err := p.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
	byForce := func(ctx context.Context, t *testing.T) {
		t.Helper()
		log := filepath.Join(t.TempDir(), "log")
		p, err := sandbox.StartProcess(t.Context(), sandbox.ProcessConfig{
			Name: "script", Argv: []string{"sh", "-c", stubborn}, LogPath: log, StopTimeout: 100 * time.Millisecond,
			Ready: func(context.Context) error {
				if text, _ := os.ReadFile(log); !strings.Contains(string(text), "trapped") {
					return errors.New("no trap yet")
				}
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		asked := time.Now()
		if err := p.Stop(ctx); err == nil || !strings.Contains(err.Error(), "was killed") || time.Since(asked) > 5*time.Second {
			t.Errorf("stop of a process that ignores SIGTERM: got %v after %s", err, time.Since(asked))
		}
		if err := p.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("end of the process: got %v, want a signal", err)
		}
	}
	t.Run("by force at the end of its context", func(t *testing.T) {
		now, cancel := context.WithCancel(t.Context())
		cancel()
		byForce(now, t)
	})
	t.Run("by force after its time", func(t *testing.T) { byForce(t.Context(), t) })
}

func TestProcessStartGivesUp(t *testing.T) {
	never := func(context.Context) error { return errors.New("no answer") }
	t.Run("at once when the process has ended", func(t *testing.T) {
		_, err := sandbox.StartProcess(t.Context(), sandbox.ProcessConfig{
			Name: "script", Argv: []string{"sh", "-c", "seq 30; echo the reason >&2; exit 3"}, Ready: never,
		})
		want := "script ended before it was ready: exit status 3; its log ends:\n    17\n"
		if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.HasSuffix(err.Error(), "\n    the reason") {
			t.Errorf("got %v, want it to begin with %q", err, want)
		}
	})
	t.Run("when another server answers", func(t *testing.T) {
		_, err := sandbox.StartProcess(t.Context(), sandbox.ProcessConfig{
			Name: "script", Argv: []string{"false"},
			Ready: func(ctx context.Context) error { <-ctx.Done(); return nil },
		})
		if err == nil || !strings.Contains(err.Error(), "exit status 1") {
			t.Errorf("got %v, want the exit status", err)
		}
	})
	t.Run("when the context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := sandbox.StartProcess(ctx, sandbox.ProcessConfig{
			Name: "script", Argv: []string{"sleep", "1000"},
			Ready: func(context.Context) error { cancel(); return errors.New("no answer") },
		})
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "no answer") {
			t.Errorf("got %v, want context.Canceled and the last error", err)
		}
	})
	t.Run("without the program", func(t *testing.T) {
		_, err := sandbox.StartProcess(t.Context(), sandbox.ProcessConfig{Name: "script", Argv: []string{"/no/such/program"}})
		if !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "start script: ") {
			t.Errorf("got %v, want os.ErrNotExist", err)
		}
	})
}

func TestReplicaStartsWhenReadyzIsOK(t *testing.T) {
	cfg := sandbox.ReplicaConfig{
		Program:       os.Args[0],
		Replica:       "a",
		MySQLDSN:      "dsn",
		EtcdEndpoints: []string{"http://one", "http://two"},
		Strategy:      "etcd",
		AdminToken:    "admin",
		JWTSecret:     "secret",
		Args:          []string{"--lock-ttl=2s"},
		Env:           []string{roleVar + "=replica"},
	}
	r := sandboxtest.StartReplica(t, cfg)
	args := strings.Join([]string{
		"serve", "--addr=" + strings.TrimPrefix(r.URL, "http://"), "--replica=a",
		"--etcd-endpoints=http://one,http://two", "--strategy=etcd", "--lock-ttl=2s",
	}, " ")
	if got, want := r.LogTail(1), args+" dsn admin secret"; got != want {
		t.Errorf("the replica was started with\n%s, want\n%s", got, want)
	}

	// A second replica at the same address must not be considered ready because the
	// first one answers.
	cfg.Addr = strings.TrimPrefix(r.URL, "http://")
	_, err := sandbox.StartReplica(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a second replica at %s: got %v, want an error", cfg.Addr, err)
	}
}

func TestFleetSharesSecretsAndReportsDeadReplicas(t *testing.T) {
	config := func(int) sandbox.ReplicaConfig {
		return sandbox.ReplicaConfig{Program: os.Args[0], Env: []string{roleVar + "=replica"}}
	}
	fleet, err := sandbox.StartFleet(t.Context(), 2, config)
	if err != nil {
		t.Fatal(err)
	}
	if len(fleet.URLs()) != 2 || fleet.Replicas[1].Name != "replica-2" || fleet.AdminToken == "" || fleet.Dead() != nil {
		t.Errorf("got %v with the secrets %q and %q", fleet.URLs(), fleet.AdminToken, fleet.JWTSecret)
	}
	if got := fleet.Replicas[0].LogTail(1); !strings.Contains(got, "--max-replicas=2") || !strings.HasSuffix(got, fleet.AdminToken+" "+fleet.JWTSecret) {
		t.Errorf("replica-1 was started with %s", got)
	}
	fleet.Replicas[0].Kill()
	if err := fleet.Dead(); err == nil || !strings.Contains(err.Error(), "replica-1 exited") || strings.Contains(err.Error(), "replica-2") {
		t.Errorf("after replica-1 was killed: got %v", err)
	}
	if err := fleet.Stop(); err != nil {
		t.Error(err)
	}

	_, err = sandbox.StartFleet(t.Context(), 2, func(i int) sandbox.ReplicaConfig {
		cfg := config(i)
		if i == 1 {
			cfg.Program = "/no/such/program"
		}
		return cfg
	})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want os.ErrNotExist", err)
	}
}

// beParent starts servers, writes a parent, and stops them at the end of its input. It
// cuts its network, if it has one.
func beParent() {
	cfg := sandbox.Config{MySQL: true, EtcdNodes: 1, EtcdProgram: []string{os.Args[1]}, Network: sandbox.NetworkKind(os.Args[2])}
	if cfg.Network == sandbox.Namespaces { // all that root can have
		cfg.MySQLDisk, cfg.FakeClock = 256, true
	}
	s, err := sandbox.Start(context.Background(), cfg)
	if err == nil && s.Network != nil {
		err = s.Network.CutBoth(context.Background(), "etcd-1", "mysql-1")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	dsn, _ := mysql.ParseDSN(s.MySQL.DSN("")) // our own
	if err := json.NewEncoder(os.Stdout).Encode(parent{Pids: pidsOf(s), Addr: dsn.Addr}); err != nil {
		os.Exit(1)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // ends at the latest with the test
	s.Stop()
}

// beReplica prints its arguments and is ready at the third query.
func beReplica() {
	fmt.Println(strings.Join(os.Args[1:], " "), os.Getenv("FLASHSALE_MYSQL_DSN"),
		os.Getenv("FLASHSALE_ADMIN_TOKEN"), os.Getenv("FLASHSALE_JWT_SECRET"))
	var asked atomic.Int32
	http.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		}
	})
	_, addr, _ := strings.Cut(os.Args[2], "=")
	fmt.Fprintln(os.Stderr, http.ListenAndServe(addr, nil))
	os.Exit(1)
}

func pidsOf(s *sandbox.Stack) []int {
	pids := []int{s.MySQL.Pid()}
	for _, node := range s.Etcd {
		pids = append(pids, node.Pid())
	}
	return pids
}

func openDB(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("%s holds %v, %v; want nothing", dir, entries, err)
	}
}
