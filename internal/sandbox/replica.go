package sandbox

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// ReplicaConfig holds the settings of one replica of the service. An empty field
// leaves the program's default in place.
type ReplicaConfig struct {
	// Program is the path of bin/api.
	Program string
	// Command replaces "Program serve": a program and its first arguments. It must
	// take the flags and variables that the fields below set.
	Command []string
	// Replica is the replica's name.
	Replica string
	// MySQLDSN and EtcdEndpoints are the servers that it uses.
	MySQLDSN      string
	EtcdEndpoints []string
	// Strategy and Fence say how it guards its stock.
	Strategy, Fence string
	// AdminToken and JWTSecret are what it checks its callers with.
	AdminToken, JWTSecret string
	// Addr is the host and port to listen on; "" or port 0 is a free port of
	// 127.0.0.1.
	Addr string
	// CA is the file with the CA of the replica's certificate, if Args makes it serve
	// TLS; "" is plain HTTP.
	CA string
	// Args are further flags.
	Args []string
	// Env is added to the environment.
	Env []string
	// LogPath is the file for the log; with "" only LogTail can read it.
	LogPath string

	enter []string // the prefix of the command line that enters the replica's host
}

// FewCustomers are the flags of replicas whose load comes from few customers, who cancel
// and pay late more often than buyers may.
var FewCustomers = []string{"--rate-limit-cancellations=0", "--rate-limit-late-payments=0"}

// Replica is a running replica of the service.
type Replica struct {
	*Process
	// Name is the replica's name, as in the header X-Replica.
	Name string
	// URL is its base URL: "http://127.0.0.1:12345".
	URL string

	client http.Client
}

// replicaStopTimeout leaves time for a slow but correct stop: ten seconds for requests, the
// default of --drain-timeout, and the rest to close what they used.
const replicaStopTimeout = 25 * time.Second

// StartReplica runs `api serve` and waits until GET /readyz answers 200. If that
// fails, the error ends with the replica's last log lines. Stop kills the replica if it has
// not ended 25 seconds after SIGTERM.
func StartReplica(ctx context.Context, cfg ReplicaConfig) (*Replica, error) {
	addr, reserved, err := cfg.addr()
	if err != nil {
		return nil, fmt.Errorf("start replica %s: %w", cfg.Replica, err)
	}
	r := &Replica{Name: cfg.Replica, URL: "http://" + addr}
	// No idle connections: nothing would close them.
	transport := &http.Transport{DisableKeepAlives: true}
	if cfg.CA != "" {
		r.URL = "https://" + addr
		if transport.TLSClientConfig, err = (&TLS{CA: cfg.CA}).client(); err != nil {
			return nil, fmt.Errorf("start replica %s: %w", cfg.Replica, err)
		}
	}
	r.client.Transport = transport
	p, err := StartProcess(ctx, ProcessConfig{
		Name:        strings.TrimSpace("replica " + cfg.Replica),
		Argv:        cfg.argv(addr),
		Env:         cfg.env(),
		LogPath:     cfg.LogPath,
		Ports:       reserved,
		Ready:       r.ready,
		StopTimeout: replicaStopTimeout,
	})
	if err != nil {
		return nil, err
	}
	r.Process = p
	return r, nil
}

// addr returns the address to listen on. It rejects an address in use: the process
// that has it could answer the readiness query before the replica fails to bind.
func (c ReplicaConfig) addr() (addr string, reserved []*Port, err error) {
	if c.Addr == "" || strings.HasSuffix(c.Addr, ":0") {
		port, err := ReservePort()
		if err != nil {
			return "", nil, err
		}
		return port.Addr, []*Port{port}, nil
	}
	if c.enter != nil {
		return c.Addr, nil, nil // on its own host
	}
	l, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return "", nil, err
	}
	return c.Addr, nil, l.Close()
}

func (c ReplicaConfig) argv(addr string) []string {
	argv := []string{c.Program, "serve"}
	if c.Command != nil {
		argv = c.Command
	}
	argv = slices.Concat(c.enter, argv, []string{"--addr=" + addr})
	for _, flag := range []struct{ name, value string }{
		{"--replica", c.Replica},
		{"--etcd-endpoints", strings.Join(c.EtcdEndpoints, ",")},
		{"--strategy", c.Strategy},
		{"--fence", c.Fence},
	} {
		if flag.value != "" {
			argv = append(argv, flag.name+"="+flag.value)
		}
	}
	return append(argv, c.Args...)
}

// env passes the secrets: every user of the machine can read a process's arguments. It also
// lets this machine's one address open as many connections as a load run needs.
func (c ReplicaConfig) env() []string {
	return slices.Concat([]string{
		"FLASHSALE_MYSQL_DSN=" + c.MySQLDSN,
		"FLASHSALE_ADMIN_TOKEN=" + c.AdminToken,
		"FLASHSALE_JWT_SECRET=" + c.JWTSecret,
		"FLASHSALE_MAX_CONNECTIONS_ADDRESS=20000",
	}, c.Env)
}

func (r *Replica) ready(ctx context.Context) error { return getReady(ctx, &r.client, r.URL, "") }
