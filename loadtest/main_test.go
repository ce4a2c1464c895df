package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/loadtest/lesson/testbed"
	"flashsale/loadtest/proof"
	"flashsale/loadtest/report"
)

// TestMain lets this test's binary serve as the child processes that the commands start,
// and as the program itself for tests that need it in its own process.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "etcd-node" || os.Args[1] == testbed.ReplicaCommand || os.Args[1] == zombieHolder || os.Args[1] == "up" || os.Args[1] == "attack" || os.Args[1] == "peer") {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestErrorNamesTheBadFlag(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"", "expected one of"},
		{"nonsense", "nonsense"},
		{"prove --nope", "--nope"},
		{"prove --rate 0", "--rate must be"},
		{"prove --rate -1", "--rate must be"},
		{"prove --rate x", "--rate"},
		{"prove --duration 0s", "--duration must be"},
		{"prove --duration -1s", "--duration must be"},
		{"prove --duration 5", "--duration"},
		{"prove --duration 1000h", "--duration"},
		{"prove --strategies nope", `unknown strategy "nope"`},
		{"prove --fence maybe", "--fence"},
		{"prove --stock -1", "--stock must be at least 0"},
		{"prove --skus 0", "--skus must"},
		{"prove --skus 5 --stock 3", "--stock 3"},
		{"prove --max-quantity 0", "--max-quantity"},
		{"prove --replicas 0", "--replicas must"},
		{"prove --replicas 1000", "--replicas must"},
		{"prove --api /nope", "/nope"},
		{"prove --api /bin/true --mysql-dsn nonsense", "malformed DSN"},
		{"prove --api /bin/true --mysql-dsn u:p@tcp(127.0.0.1:1)/", "connection refused"},
		{"prove --api /bin/true --mysql-dsn u:p@tcp(127.0.0.1:1)/?charset=gbk", "--mysql-dsn: charset=gbk is not supported"},
		{"prove --api /bin/true --mysql-dsn u:p@tcp(127.0.0.1:1)/?autocommit=0", "--mysql-dsn: autocommit is not supported"},
		{"attack --target http://x --jwt-secret a --admin-token b --mysql-dsn u:p@tcp(127.0.0.1:1)/db?charset=gbk", "--mysql-dsn: charset=gbk is not supported"},
		{"attack", "--target"},
		{"attack --target ftp://x --jwt-secret a --admin-token b", "--target"},
		{"attack --target http://me:pw@x --jwt-secret a --admin-token b", "--target http://me:xxxxx@x: remove the user name"},
		{"attack --target http://127.0.0.1:1 --jwt-secret a --admin-token b", "connection refused"},
		{"attack --target http://127.0.0.1:1 --jwt-secret a --admin-token b --mysql-dsn u@tcp(127.0.0.1:1)/db", "connection refused"},
		{"attack --target http://x --jwt-secret a --admin-token b --stages 10s", "--stages"},
		{"attack --target http://x --jwt-secret a --admin-token b --stages 0s:100", "--stages are 0 requests"},
		{"attack --target http://x --jwt-secret a --admin-token b --mix pay=100", "--mix needs a share of orders"},
		{"attack --target http://x --jwt-secret a --admin-token b --mix order=1,buy=2", "--mix: \"buy=2\""},
		{"attack --target http://x --jwt-secret a --admin-token b --results r.csv", "--results r.csv"},
		{"attack --target http://x --jwt-secret a --admin-token b --threshold p99<50", "--threshold \"p99<50\""},
		{"attack --target http://x --jwt-secret a --admin-token b --compare /nope.json", "--compare: open /nope.json"},
		{"prove --threshold speed>5", "--threshold \"speed>5\""},
		{"up --etcd-nodes 2", "--etcd-nodes"},
		{"soak --duration 0s", "--duration must"},
		{"soak --payment-window 1ms", "--payment-window must"},
		{"soak --actors -1", "--actors must"},
		{"soak --rushes 1000", "--rushes must"},
		{"soak --actors 0 --rushes 0", "must not both be 0"},
		{"faults --scenarios nope", `--scenarios: unknown scenario "nope"`},
		{"faults --scenarios seller-killed --short", "--short and --scenarios exclude"},
		{"faults --mutants --short", "--mutants chooses"},
		{"faults --only no-fence-compare", "add --mutants"},
		{"faults --mutants --only nope --api /bin/true", `--only: unknown mutant "nope"`},
		{"faults --runs 0", "--runs must"},
		{"faults --buyers 0", "--buyers must"},
		{"faults --rate 0", "--rate must"},
		{"faults --mixed 0", "--mixed must"},
		{"faults --chaos 0s", "--chaos must"},
		{"faults --lock-ttl 1s", "--lock-ttl must"},
		{"faults --api /nope", "/nope"},
		{"faults --api /bin/true --out /dev/null/x", "/dev/null"},
		{"prove --api /bin/true --mysql-nodes 2", "--mysql-nodes"},
		{"prove --api /bin/true --mysql-nodes 3 --mysql-dsn u:p@tcp(h)/", "--mysql-nodes is for a private database"},
		{"bench --peers nope", `unknown peer "nope"`},
		{"bench --loads cold", `unknown load "cold"`},
		{"bench --rounds 0", "--rounds must"},
		{"bench --duration 1ms", "--duration must"},
		{"bench --duration 1h", "--duration 1h"},
		{"bench --workers 0", "--workers must"},
		{"bench --rate -1", "--rate must"},
		{"bench --replicas -1", "--replicas must"},
		{"bench --replicas 1000", "--replicas must"},
		{"bench --api /nope", "/nope"},
		{"handover --strategies nope", `unknown strategy "nope"`},
		{"handover --strategies none", "--strategies must name at least one strategy that takes a lock"},
		{"handover --rounds 0", "--rounds must"},
		{"handover --strategies process --out /dev/null/x.json", "/dev/null"},
		{"zombies --strategies nope", `unknown strategy "nope"`},
		{"zombies --strategies conditional", "--strategies must name at least one"},
		{"zombies --strategies redis,redis", `duplicate strategy "redis"`},
		{"zombies --fence high", "--fence"},
		{"zombies --runs 0", "--runs must"},
		{"up --strategy nope", "--strategy"},
		{"lab --api /nope", "/nope"},
		{"lab --api /bin/true --addr 0.0.0.0:8090", "--addr: 0.0.0.0:8090 is not a loopback address"},
		{"lab --api /bin/true --addr :8090", "--addr: :8090 is not a loopback address"},
		{"lab --api /bin/true --addr example.com:80", "--addr: example.com:80 is not a loopback address"},
		{"lab --api /bin/true --addr nowhere", "--addr: address nowhere: missing port"},
		{"up --lock-ttl -1s", "--lock-ttl"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			err := run(t.Context(), strings.Fields(tt.args), io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has more than one line: %v", err)
			}
		})
	}
}

// A secret with surrounding white space would sign tokens that the service refuses.
func TestWhiteSpaceAroundASecretIsReported(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"--jwt-secret ends with a line break":   {"attack", "--target=http://127.0.0.1:1", "--admin-token=b", "--jwt-secret=a\r\n"},
		"--admin-token begins with a space":     {"attack", "--target=http://127.0.0.1:1", "--admin-token= b", "--jwt-secret=a"},
		"--jwt-secret is only white":            {"token", "ann", "--jwt-secret= \n"},
		"--mysql-dsn ends with a line break: r": {"attack", "--target=http://127.0.0.1:1", "--admin-token=b", "--jwt-secret=a", "--mysql-dsn=u@tcp(127.0.0.1:1)/db\n"},
	} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", args, err, want)
		}
	}
}

func TestHelpIsNotAnError(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"prove", "--help"}, {"attack", "--help"}, {"up", "--help"}, {"faults", "--help"}} {
		var out bytes.Buffer
		if err := run(t.Context(), args, &out, io.Discard); err != nil || !strings.Contains(out.String(), "Usage: loadtest") {
			t.Errorf("%v: %v, %q", args, err, out.String())
		}
		if strings.Contains(out.String(), "etcd-node ") {
			t.Errorf("%v shows a hidden command", args)
		}
	}
}

// TestNoneOversellsAndEtcdDoesNot is a small proof with real servers and replicas.
func TestNoneOversellsAndEtcdDoesNot(t *testing.T) {
	sandboxtest.NeedsDatabase(t)
	dir := t.TempDir()
	var out bytes.Buffer
	err := run(t.Context(), []string{
		"prove", "--strategies=none,etcd", "--duration=2s", "--rate=800", "--stock=200", "--max-quantity=3", "--skus=2",
		"--seed=1", "--api=" + sandboxtest.Build(t, "api"), "--out=" + dir,
	}, &out, io.Discard)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	p := readProof(t, dir)
	if !p.Proven || p.Seed != 1 || len(p.Runs) != 2 {
		t.Errorf("got proven %v, seed %d, %d runs", p.Proven, p.Seed, len(p.Runs))
	}
	for _, r := range p.Runs {
		if r.Offered != r.Accepted+r.SoldOut+r.Errors+r.Ambiguous {
			t.Errorf("%s: the counts do not add up to those offered: %+v", r.Strategy, r.Counts)
		}
		if len(r.Samples) == 0 || r.Samples[0].Available != r.Stock {
			t.Errorf("%s: the first sample is not the stock: %+v", r.Strategy, r.Samples)
		}
	}
	if none := p.Runs[0]; none.Oversold == 0 || none.UnitsSold <= none.Stock {
		t.Errorf("none: %+v", none.Findings)
	}
	if etcd := p.Runs[1]; etcd.UnitsSold+etcd.Available != etcd.Stock || etcd.Lost+etcd.Duplicated+etcd.Unexplained > 0 {
		t.Errorf("etcd: %+v", etcd.Findings)
	}
	if _, err := os.Stat(filepath.Join(dir, report.PageFile)); err != nil {
		t.Error(err)
	}
}

// TestAttackOnAStackStartedByUp uses the stack as other programs do: it waits for the
// file, uses the addresses in it, and ends the stack with a signal.
func TestAttackOnAStackStartedByUp(t *testing.T) {
	sandboxtest.NeedsDatabase(t)
	dir := t.TempDir()
	up := startUp(t, dir)
	d := up.description

	attack := func(name string, more ...string) *proof.Proof {
		t.Helper()
		out := filepath.Join(dir, name)
		args := []string{
			"attack", "--target=" + strings.Join(d.Replicas, ","), "--jwt-secret=" + d.JWTSecret, "--admin-token=" + d.AdminToken,
			"--rate=500", "--duration=3s", "--stock=100", "--out=" + out,
		}
		if err := run(t.Context(), append(args, more...), io.Discard, io.Discard); err != nil {
			t.Fatal(err)
		}
		return readProof(t, out)
	}
	if p := attack("listed"); p.Partial || p.Runs[0].UnitsSold != 100 {
		t.Errorf("without a DSN: got partial %v, %+v", p.Partial, p.Runs[0].Findings)
	}
	if p := attack("whole", "--mysql-dsn="+d.MySQLDSN); p.Partial || p.Runs[0].UnitsSold != 100 || len(p.Runs[0].Samples) == 0 {
		t.Errorf("with a DSN: got partial %v, %+v", p.Partial, p.Runs[0].Findings)
	}
	// prove creates a database on the stack's MySQL and drops it.
	out := filepath.Join(dir, "own")
	err := run(t.Context(), []string{
		"prove", "--mysql-dsn=" + d.MySQLDSN + "?charset=utf8mb4&loc=Local", "--strategies=conditional", "--replicas=1", "--rate=200", "--duration=3s",
		"--stock=50", "--api=" + sandboxtest.Build(t, "api"), "--out=" + out,
	}, io.Discard, io.Discard)
	if err != nil || !readProof(t, out).Proven {
		t.Errorf("prove with --mysql-dsn: %v", err)
	}
	for _, tt := range []struct{ name, target, secret, admin, want string }{
		{"another secret", d.Replicas[0], "wrong", d.AdminToken, "check --jwt-secret"},
		{"another admin token", d.Replicas[0], d.JWTSecret, "wrong", "check --admin-token"},
		{"a path", d.Replicas[0] + "/shop/", d.JWTSecret, d.AdminToken, "has no path /shop/v1/orders;"},
	} {
		err := run(t.Context(), []string{
			"attack", "--target=" + tt.target, "--jwt-secret=" + tt.secret, "--admin-token=" + tt.admin, "--out=" + dir,
		}, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("with %s: got %v, want %q", tt.name, err, tt.want)
		}
	}

	attackAsGuest(t, &d)
	attackWithMix(t, &d)

	up.end(t)
	pids := append(append(d.Pids.Replicas, d.Pids.Etcd...), d.Pids.MySQL)
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is still there: %v", pid, err)
		}
	}
	for _, left := range []string{filepath.Join(dir, sandboxFile), filepath.Join(dir, "tmp", "*")} {
		if found, err := filepath.Glob(left); err != nil || len(found) > 0 {
			t.Errorf("left behind: %v, %v", found, err)
		}
	}
}

// upProcess is a process that runs `loadtest up` with its own temporary folder.
type upProcess struct {
	cmd         *exec.Cmd
	description sandboxDescription
}

func startUp(t *testing.T, dir string) *upProcess {
	t.Helper()
	tmp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "up", "--replicas=2", "--out="+dir, "--api="+sandboxtest.Build(t, "api"))
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	up := &upProcess{cmd: cmd}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			up.end(t)
		}
	})
	// The first lines name the database. Further output means that the stack is ready; if
	// the process ends early, the pipe is closed.
	said := bufio.NewReader(stdout)
	for line := "-"; line != "\n"; {
		if line, err = said.ReadString('\n'); err != nil {
			t.Fatalf("up did not name its database: %v", err)
		}
	}
	if _, err := said.Peek(1); err != nil {
		t.Fatalf("up did not become ready: %v", err)
	}
	go func() { _, _ = io.Copy(io.Discard, said) }() // ends with the process
	loadJSON(t, filepath.Join(dir, sandboxFile), &up.description)
	return up
}

func (u *upProcess) end(t *testing.T) {
	t.Helper()
	if err := u.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := u.cmd.Wait(); err != nil {
		t.Errorf("up ended with %v", err)
	}
}

// TestInterruptedProofLeavesNothing interrupts a proof during its attack.
func TestInterruptedProofLeavesNothing(t *testing.T) {
	sandboxtest.NeedsDatabase(t)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGUSR1)
	defer stop()
	var interrupted time.Time
	began := &whenWritten{text: "none:", f: func() {
		if interrupted.IsZero() {
			interrupted = time.Now()
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	}}
	err := run(ctx, []string{
		"prove", "--strategies=none", "--duration=120s", "--rate=200", "--api=" + sandboxtest.Build(t, "api"), "--out=" + tmp,
	}, io.Discard, began)
	if !errors.Is(err, ctx.Err()) || err == nil {
		t.Errorf("got %v, want the context's error", err)
	}
	if took := time.Since(interrupted); took > time.Minute {
		t.Errorf("the attack of two minutes ended %s after the interrupt, want less than a minute", took)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// whenWritten calls f when a write contains text.
type whenWritten struct {
	text string
	f    func()
}

func (w *whenWritten) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.text) {
		w.f()
	}
	return len(p), nil
}

func readProof(t *testing.T, dir string) *proof.Proof {
	t.Helper()
	var p proof.Proof
	loadJSON(t, filepath.Join(dir, report.ProofFile), &p)
	return &p
}

func loadJSON(t *testing.T, file string, into any) {
	t.Helper()
	if err := readJSON(file, into); err != nil {
		t.Fatal(err)
	}
}
