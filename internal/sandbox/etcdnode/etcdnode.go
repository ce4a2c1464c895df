// Package etcdnode serves one node of an etcd cluster from this module's own programs,
// so that a sandbox needs no installed etcd.
//
// A node is as durable as etcd's own program: every write is synced. It must only
// listen on the loopback interface.
package etcdnode

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"

	"go.etcd.io/etcd/server/v3/embed"
)

// Config is one node.
type Config struct {
	// Name is the node's name in InitialCluster.
	Name string
	// DataDir is created if it does not exist.
	DataDir string
	// ClientURL and PeerURL are listened on and advertised.
	ClientURL, PeerURL string
	// InitialCluster lists all nodes: name=peerURL,name=peerURL.
	InitialCluster string
	// ClusterToken distinguishes clusters that would otherwise have the same id.
	ClusterToken string
	// CA, Cert and Key are files. With them clients must use TLS and a certificate
	// that the CA has signed, and ClientURL must be https.
	CA, Cert, Key string
	// Quota is the maximum size of the database in bytes; 0 is etcd's default.
	Quota int64
}

// Main is the command: it serves one node until ctx ends. A mistake in args is
// reported to stderr, with the usage. etcd's warnings go to the process's stderr.
func Main(ctx context.Context, args []string, stderr io.Writer) error {
	var cfg Config
	flags := flag.NewFlagSet("etcd-node", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&cfg.Name, "name", "", "`name` of this node in --initial-cluster")
	flags.StringVar(&cfg.DataDir, "data-dir", "", "`folder` of its data")
	flags.StringVar(&cfg.ClientURL, "client-url", "", "`URL` to listen on for clients")
	flags.StringVar(&cfg.PeerURL, "peer-url", "", "`URL` to listen on for the other nodes")
	flags.StringVar(&cfg.InitialCluster, "initial-cluster", "", "all `nodes`, as name=peer-url,name=peer-url")
	flags.StringVar(&cfg.ClusterToken, "cluster-token", "flashsale", "`token` that distinguishes this cluster from others")
	flags.StringVar(&cfg.CA, "ca", "", "`file` of the CA that signs clients' certificates, for TLS")
	flags.StringVar(&cfg.Cert, "cert", "", "`file` of the server's certificate")
	flags.StringVar(&cfg.Key, "key", "", "`file` of its key")
	flags.Int64Var(&cfg.Quota, "quota", 0, "maximum size of the database in `bytes`; 0 is etcd's default")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return fmt.Errorf("etcd-node: %w", err)
	case flags.NArg() > 0:
		return fmt.Errorf("etcd-node: unexpected argument %q", flags.Arg(0))
	}
	return Run(ctx, cfg)
}

// Run serves the node until ctx ends and then returns nil. It returns an error if the
// node cannot start or stops by itself. The process must exit afterwards: Run leaves
// connections open.
func Run(ctx context.Context, cfg Config) error {
	ec, err := cfg.embed()
	if err != nil {
		return fmt.Errorf("etcd node %s: %w", cfg.Name, err)
	}
	node, err := embed.StartEtcd(ec)
	if err != nil {
		return fmt.Errorf("etcd node %s: %w", cfg.Name, err)
	}
	select {
	case <-ctx.Done():
		// Stop hands the leadership over and closes the files. Close would first
		// wait seven seconds for the open watches of each client.
		node.Server.Stop()
		return nil
	case <-node.Server.StopNotify():
		return fmt.Errorf("etcd node %s stopped by itself", cfg.Name)
	case err := <-node.Err():
		return fmt.Errorf("etcd node %s: %w", cfg.Name, err)
	}
}

func (c Config) embed() (*embed.Config, error) {
	if c.Name == "" || c.DataDir == "" || c.InitialCluster == "" {
		return nil, errors.New("--name, --data-dir and --initial-cluster are required")
	}
	scheme := "http"
	if c.Cert != "" {
		scheme = "https"
	}
	client, err := parseURL(scheme, c.ClientURL)
	if err != nil {
		return nil, fmt.Errorf("client URL: %w", err)
	}
	peer, err := parseURL("http", c.PeerURL)
	if err != nil {
		return nil, fmt.Errorf("peer URL: %w", err)
	}
	ec := embed.NewConfig()
	ec.Name, ec.Dir = c.Name, c.DataDir
	ec.ListenClientUrls, ec.AdvertiseClientUrls = client, client
	ec.ListenPeerUrls, ec.AdvertisePeerUrls = peer, peer
	ec.InitialCluster, ec.InitialClusterToken = c.InitialCluster, c.ClusterToken
	if c.Cert != "" {
		secure := &ec.ClientTLSInfo
		secure.TrustedCAFile, secure.CertFile, secure.KeyFile, secure.ClientCertAuth = c.CA, c.Cert, c.Key, true
	}
	ec.QuotaBackendBytes = c.Quota
	ec.LogLevel = "warn"
	return ec, nil
}

func parseURL(scheme, text string) ([]url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	if u.Scheme != scheme || u.Host == "" {
		return nil, fmt.Errorf("%q is not of the form %s://host:port", text, scheme)
	}
	return []url.URL{*u}, nil
}
