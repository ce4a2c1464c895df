package sandbox

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
)

// ReplicaConfig is one replica of the service. Fields left empty are not handed
// on: the program's own defaults hold.
type ReplicaConfig struct {
	// Program is the path of bin/api.
	Program string
	// Replica is its name.
	Replica string
	// MySQLDSN and EtcdEndpoints are the servers that it works with.
	MySQLDSN      string
	EtcdEndpoints []string
	// Strategy and Fence say how it guards its stock.
	Strategy, Fence string
	// AdminToken and JWTSecret are what it checks its callers by.
	AdminToken, JWTSecret string
	// Addr is the host and port where it listens; "" or port 0 is a free port
	// of 127.0.0.1.
	Addr string
	// CA is the file of the CA of the replica's own certificate, when Args has it
	// serve by TLS; "" is plain HTTP.
	CA string
	// Args are further flags of `api serve`.
	Args []string
	// Env is further environment.
	Env []string
	// LogPath is the file for its log; "" keeps it for LogTail only.
	LogPath string
}

// Replica is a running replica of the service.
type Replica struct {
	*Process
	// Name is the replica's, as it stands in X-Replica.
	Name string
	// URL is where it serves: "http://127.0.0.1:12345".
	URL string

	client http.Client
}

// StartReplica runs `api serve` and waits until GET /readyz answers 200. If it
// does not, the error ends with the replica's last log lines.
func StartReplica(ctx context.Context, cfg ReplicaConfig) (*Replica, error) {
	addr, reserved, err := cfg.addr()
	if err != nil {
		return nil, fmt.Errorf("start replica %s: %w", cfg.Replica, err)
	}
	r := &Replica{Name: cfg.Replica, URL: "http://" + addr}
	// Connections are not kept: nobody would close them.
	transport := &http.Transport{DisableKeepAlives: true}
	if cfg.CA != "" {
		r.URL = "https://" + addr
		if transport.TLSClientConfig, err = (&TLS{CA: cfg.CA}).client(); err != nil {
			return nil, fmt.Errorf("start replica %s: %w", cfg.Replica, err)
		}
	}
	r.client.Transport = transport
	p, err := StartProcess(ctx, ProcessConfig{
		Name:    strings.TrimSpace("replica " + cfg.Replica),
		Argv:    cfg.argv(addr),
		Env:     cfg.env(),
		LogPath: cfg.LogPath,
		Ports:   reserved,
		Ready:   r.ready,
	})
	if err != nil {
		return nil, err
	}
	r.Process = p
	return r, nil
}

// addr is where to listen. One that is taken is refused here: whoever has it
// might answer the readiness query before the replica has failed to bind it.
func (c ReplicaConfig) addr() (addr string, reserved []*Port, err error) {
	if c.Addr == "" || strings.HasSuffix(c.Addr, ":0") {
		port, err := ReservePort()
		if err != nil {
			return "", nil, err
		}
		return port.Addr, []*Port{port}, nil
	}
	l, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return "", nil, err
	}
	return c.Addr, nil, l.Close()
}

func (c ReplicaConfig) argv(addr string) []string {
	argv := []string{c.Program, "serve", "--addr=" + addr}
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

// env hands on what is secret: anybody on the machine can read the arguments.
func (c ReplicaConfig) env() []string {
	return slices.Concat([]string{
		"FLASHSALE_MYSQL_DSN=" + c.MySQLDSN,
		"FLASHSALE_ADMIN_TOKEN=" + c.AdminToken,
		"FLASHSALE_JWT_SECRET=" + c.JWTSecret,
	}, c.Env)
}

func (r *Replica) ready(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL+"/readyz", http.NoBody)
	if err != nil {
		return err
	}
	response, err := r.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 512)) // only to quote it
		return fmt.Errorf("GET /readyz: %s: %s", response.Status, strings.TrimSpace(string(body)))
	}
	return nil
}
