package sandbox

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// galera is MariaDB's cluster, in which every server accepts writes.
type galera struct {
	*Cluster
	library string
	nodes   []galeraAddrs
}

// galeraAddrs are a server's addresses for the traffic of the cluster, for changes
// that it has missed, and for a full copy of the data.
type galeraAddrs struct{ group, changes, copy string }

// The ports on a host of its own.
const (
	galeraPort, galeraChangesPort, galeraCopyPort = 4567, 4568, 4444
)

// FindGalera returns a *MissingError if Galera's library is not installed.
func FindGalera() error {
	_, err := findGalera()
	return err
}

// findGalera returns the folder that scripts/galera fills.
func findGalera() (folder string, err error) {
	if folder, err = cacheFolder("galera"); err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(folder, galeraLibrary)); err != nil {
		return "", &MissingError{Program: filepath.Base(galeraLibrary), Do: "run `scripts/setup --galera`", err: exec.ErrNotFound}
	}
	return folder, nil
}

const galeraLibrary = "lib/libgalera_smm.so"

func (c *Cluster) planGalera(ctx context.Context, program *databaseProgram, dir string, cfg Config) error {
	folder, err := findGalera()
	if err != nil {
		return err
	}
	g := &galera{Cluster: c, library: filepath.Join(folder, galeraLibrary)}
	for i := range cfg.MySQLNodes {
		addrs, err := c.plan(ctx, program, dir, cfg, galeraPort, galeraChangesPort, galeraCopyPort)
		if err != nil {
			return err
		}
		g.nodes = append(g.nodes, galeraAddrs{addrs[0], addrs[1], addrs[2]})
		// The server finds the scripts that copy the data in PATH.
		c.Nodes[i].env = []string{"PATH=" + filepath.Join(folder, "bin") + ":/usr/sbin:/sbin:" + os.Getenv("PATH")}
	}
	// Galera ignores data that a server did not receive from another one.
	c.kind, c.name, c.copied = g, "Galera", false
	return nil
}

func (g *galera) options(n int, founds bool) []string {
	at := g.nodes[n]
	peers := make([]string, len(g.nodes))
	for i := range g.nodes {
		peers[i] = g.nodes[i].group
	}
	options := []string{
		"--server-id=" + strconv.Itoa(n+1), "--binlog-format=ROW", "--innodb-autoinc-lock-mode=2",
		"--wsrep-on=ON", "--wsrep-provider=" + g.library, "--wsrep-cluster-name=flashsale", "--wsrep-node-name=" + strconv.Itoa(n+1),
		"--wsrep-node-address=" + at.group, "--wsrep-sst-method=rsync", "--wsrep-sst-receive-address=" + at.copy,
		// pc.recovery restores a cluster only if all servers were killed at once, not
		// one after the other.
		"--wsrep-provider-options=base_port=" + portOf(at.group) + ";gmcast.listen_addr=tcp://" + at.group + ";ist.recv_addr=" + at.changes + ";pc.recovery=FALSE",
	}
	if founds {
		return append(options, "--wsrep-cluster-address=gcomm://", "--wsrep-new-cluster")
	}
	return append(options, "--wsrep-cluster-address=gcomm://"+strings.Join(peers, ","))
}

func (*galera) join(context.Context, *MySQL, bool) error { return nil } // automatic

// in also asks the server with the latest view: a server that was cut off may not
// know it yet.
func (g *galera) in(ctx context.Context, m *MySQL) error {
	own, err := m.status(ctx, "wsrep_local_state_comment")
	if err == nil && own != "Synced" {
		err = fmt.Errorf("its state in the cluster is %s", own)
	}
	if err != nil {
		return err
	}
	view, err := g.writable(ctx, m)
	if err != nil {
		return err
	}
	primary, err := g.Primary(ctx)
	if err != nil {
		return err
	}
	latest, err := g.writable(ctx, g.Nodes[primary])
	if err == nil && latest != view {
		err = fmt.Errorf("its view of the cluster is %d, the latest is %d", view, latest)
	}
	return err
}

// status reads one status variable of the server.
func (m *MySQL) status(ctx context.Context, name string) (value string, err error) {
	err = m.ask(ctx, "SHOW GLOBAL STATUS LIKE '"+name+"'", &name, &value)
	return value, err
}

func (*galera) writable(ctx context.Context, m *MySQL) (view int64, err error) {
	ready, err := m.status(ctx, "wsrep_ready")
	if err == nil && ready != "ON" {
		err = fmt.Errorf("wsrep_ready is %s", ready)
	}
	if err != nil {
		return 0, err
	}
	number, err := m.status(ctx, "wsrep_cluster_conf_id")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(number, 10, 64)
}

// position matches how a server that was killed reports the end of its data.
var position = regexp.MustCompile(`WSREP: Recovered position: ([0-9a-f-]+:\d+)`)

// resume tells the server where its data ends, as MariaDB's own service does: it then
// receives only the changes that it has missed. Otherwise it would receive a full
// copy, and the server that sends the copy would not accept writes meanwhile.
func (g *galera) resume(ctx context.Context, n int) ([]string, error) {
	m := g.Nodes[n]
	log := m.dataDir + "-recover.log"
	argv := append(m.argv(g.options(n, false)...), "--wsrep-recover", "--log-error="+log)
	if err := runToItsEnd(ctx, "mariadbd --wsrep-recover", argv, m.dataDir); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(log)
	if err != nil {
		return nil, err
	}
	found := position.FindAllSubmatch(text, -1)
	if found == nil {
		return nil, nil // it has none of the cluster's data
	}
	return []string{"--wsrep-start-position=" + string(found[len(found)-1][1])}, nil
}
