// Package etcdnode serves one node of an etcd cluster from within this module's
// own programs, so that a sandbox needs no etcd to be installed.
//
// A node is as durable as etcd's own program: every write is synced. It is for
// the loopback interface.
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
	// Name is the node's in InitialCluster.
	Name string
	// DataDir is made if need be, and served again if it holds a node's data.
	DataDir string
	// ClientURL and PeerURL are listened on and advertised.
	ClientURL, PeerURL string
	// InitialCluster lists all nodes as name=peerURL, with commas between.
	InitialCluster string
	// ClusterToken sets clusters apart that would otherwise have the same id.
	ClusterToken string
	// CA, Cert and Key are files. With them clients come by TLS, with a certificate
	// that the CA has signed; ClientURL is then of https.
	CA, Cert, Key string
	// Quota is the most bytes of its database; 0 is etcd's default.
	Quota int64
}

// Main is the command: it serves one node until ctx ends. What etcd warns of
// goes to the process's stderr, a mistake in args with the usage to stderr.
func Main(ctx context.Context, args []string, stderr io.Writer) error {
	var cfg Config
	flags := flag.NewFlagSet("etcd-node", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&cfg.Name, "name", "", "`name` of this node in --initial-cluster")
	flags.StringVar(&cfg.DataDir, "data-dir", "", "`folder` of its data")
	flags.StringVar(&cfg.ClientURL, "client-url", "", "`URL` to serve clients at")
	flags.StringVar(&cfg.PeerURL, "peer-url", "", "`URL` to serve the other nodes at")
	flags.StringVar(&cfg.InitialCluster, "initial-cluster", "", "all `nodes`, as name=peer-url,name=peer-url")
	flags.StringVar(&cfg.ClusterToken, "cluster-token", "flashsale", "`token` that sets this cluster apart")
	flags.StringVar(&cfg.CA, "ca", "", "`file` of the CA of clients, for TLS")
	flags.StringVar(&cfg.Cert, "cert", "", "`file` of the certificate shown to clients")
	flags.StringVar(&cfg.Key, "key", "", "`file` of its key")
	flags.Int64Var(&cfg.Quota, "quota", 0, "most `bytes` of its database")
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

// Run serves the node until ctx ends, and returns nil then, or an error when it
// cannot start or has to stop by itself. The process must end after it: etcd's
// connections are left to be closed by that.
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
		// The server hands its leadership on and closes its files. Close would
		// do so only after it had waited seven seconds for each client's open
		// watch to end by itself.
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
		return nil, errors.New("it needs a name, a data folder and an initial cluster")
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
