// Package etcdnode serves one node of an etcd cluster from this module's own programs,
// so that a sandbox needs no installed etcd.
//
// A node is as durable as etcd's own program: every write is synced. It must not
// listen where other machines reach it: it admits everyone.
package etcdnode

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// config is one node.
type config struct {
	name, dataDir, clientURL, peerURL, initialCluster, clusterToken string
	ca, cert, key                                                   string
	quota                                                           int64
	restore                                                         string
	bumpRevision                                                    bool
}

// Main is the command: it serves one node until ctx ends, and then returns nil. With
// --restore it only creates the node's data, and returns. It
// returns an error if the node cannot start or stops by itself. A mistake in args is
// reported to stderr, with the usage. etcd's warnings go to the process's stderr. The
// process must exit afterwards: Main leaves connections open.
func Main(ctx context.Context, args []string, stderr io.Writer) error {
	var cfg config
	flags := flag.NewFlagSet("etcd-node", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&cfg.name, "name", "", "`name` of this node in --initial-cluster")
	flags.StringVar(&cfg.dataDir, "data-dir", "", "`folder` of its data, created if it does not exist")
	flags.StringVar(&cfg.clientURL, "client-url", "", "`URL` to listen on for clients")
	flags.StringVar(&cfg.peerURL, "peer-url", "", "`URL` to listen on for the other nodes")
	flags.StringVar(&cfg.initialCluster, "initial-cluster", "", "all `nodes`, as name=peer-url,name=peer-url")
	flags.StringVar(&cfg.clusterToken, "cluster-token", "flashsale", "`token` that distinguishes this cluster from others")
	flags.StringVar(&cfg.ca, "ca", "", "`file` of the CA that signs clients' certificates, for TLS")
	flags.StringVar(&cfg.cert, "cert", "", "`file` of the server's certificate; --client-url must then be https")
	flags.StringVar(&cfg.key, "key", "", "`file` of its key")
	flags.Int64Var(&cfg.quota, "quota", 0, "maximum size of the database in `bytes`; 0 is etcd's default")
	flags.StringVar(&cfg.restore, "restore", "", "create --data-dir from this `snapshot`, and exit; all nodes must be given the same one")
	flags.BoolVar(&cfg.bumpRevision, "bump-revision", false, "make revisions after --restore larger than all before, as etcdutl's --bump-revision 1000000000 --mark-compacted")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return fmt.Errorf("etcd-node: %w", err)
	case flags.NArg() > 0:
		return fmt.Errorf("etcd-node: unexpected argument %q", flags.Arg(0))
	}
	if err := cfg.run(ctx); err != nil {
		return fmt.Errorf("etcd node %s: %w", cfg.name, err)
	}
	return nil
}

func (c config) run(ctx context.Context) error {
	ec, err := c.embed()
	if err != nil {
		return err
	}
	if c.restore != "" {
		return c.createFromSnapshot()
	}
	node, err := embed.StartEtcd(ec)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		// Stop hands the leadership over and closes the files. Close would first
		// wait seven seconds for the open watches of each client.
		node.Server.Stop()
		return nil
	case <-node.Server.StopNotify():
		return errors.New("it stopped by itself")
	case err := <-node.Err():
		return err
	}
}

// revisionBump is what the docs tell operators to use.
const revisionBump = 1_000_000_000

// createFromSnapshot is `etcdutl snapshot restore`. The ids of the cluster and its
// members follow from --initial-cluster and --cluster-token, so they stay as they were.
func (c config) createFromSnapshot() error {
	restore := snapshot.RestoreConfig{
		SnapshotPath: c.restore, Name: c.name, OutputDataDir: c.dataDir, PeerURLs: []string{c.peerURL},
		InitialCluster: c.initialCluster, InitialClusterToken: c.clusterToken,
	}
	if c.bumpRevision {
		restore.RevisionBump, restore.MarkCompacted = revisionBump, true
	}
	return snapshot.NewV3(zap.NewNop()).Restore(restore)
}

func (c config) embed() (*embed.Config, error) {
	if c.name == "" || c.dataDir == "" || c.initialCluster == "" {
		return nil, errors.New("--name, --data-dir and --initial-cluster are required")
	}
	scheme := "http"
	if c.cert != "" {
		scheme = "https"
	}
	client, err := parseURL(scheme, c.clientURL)
	if err != nil {
		return nil, fmt.Errorf("--client-url: %w", err)
	}
	peer, err := parseURL("http", c.peerURL)
	if err != nil {
		return nil, fmt.Errorf("--peer-url: %w", err)
	}
	ec := embed.NewConfig()
	ec.Name, ec.Dir = c.name, c.dataDir
	ec.ListenClientUrls, ec.AdvertiseClientUrls = client, client
	ec.ListenPeerUrls, ec.AdvertisePeerUrls = peer, peer
	ec.InitialCluster, ec.InitialClusterToken = c.initialCluster, c.clusterToken
	if c.cert != "" {
		secure := &ec.ClientTLSInfo
		secure.TrustedCAFile, secure.CertFile, secure.KeyFile, secure.ClientCertAuth = c.ca, c.cert, c.key, true
	}
	ec.QuotaBackendBytes = c.quota
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
