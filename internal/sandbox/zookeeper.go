package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// zookeeperPackages are Debian's. They contain the server and no service. The
// package zookeeper would also install a desktop's Java.
var zookeeperPackages = source{"scripts/setup --zookeeper", "libzookeeper-java default-jre-headless"}

const (
	// zookeeperJars are the server, whose manifest names its dependencies, and the
	// logger that writes to stderr.
	zookeeperJars = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar"
	// zookeeperTick is the server's unit of time. A session lasts at least two
	// ticks, and the server notices within one that it has expired.
	zookeeperTick = 250 * time.Millisecond
	// zookeeperMaxSession is the longest session, for tests in which no session may
	// expire. The server's default is 20 ticks.
	zookeeperMaxSession = 2 * time.Minute
	// zookeeperJoin and zookeeperSync bound how many ticks a node takes to join its
	// ensemble and to follow its leader. Three JVMs on two cores start in seconds.
	zookeeperJoin, zookeeperSync = 80, 20
)

// ZooKeeper is a private ZooKeeper server, or an ensemble of several.
type ZooKeeper struct {
	// Nodes are its servers.
	Nodes []*ZooKeeperNode

	folder *folder
}

// ZooKeeperNode is one server.
type ZooKeeperNode struct {
	*Process
	// Addr is where clients connect: host and port.
	Addr string
	// Dir is where it keeps its data.
	Dir string

	ports []*Port
}

// StartZooKeeper starts servers on free ports with their data in a temporary folder.
// They run until Close or until this process ends. ctx bounds only the start.
func StartZooKeeper(ctx context.Context, nodes int) (*ZooKeeper, error) {
	java, err := zookeeperJava()
	if err != nil {
		return nil, err
	}
	folder, err := openFolder("")
	if err != nil {
		return nil, fmt.Errorf("open the servers' folder: %w", err)
	}
	z := &ZooKeeper{folder: folder}
	if err := z.start(ctx, java, nodes); err != nil {
		return nil, errors.Join(err, z.Close())
	}
	return z, nil
}

// Addrs are where clients connect.
func (z *ZooKeeper) Addrs() []string {
	addrs := make([]string, len(z.Nodes))
	for i, node := range z.Nodes {
		addrs[i] = node.Addr
	}
	return addrs
}

// Close stops the servers and removes their data.
func (z *ZooKeeper) Close() error {
	var group errgroup.Group
	for _, node := range z.Nodes {
		if node.Process != nil {
			group.Go(func() error { return node.Stop(context.Background()) })
		}
	}
	return errors.Join(group.Wait(), z.folder.remove())
}

// FindZooKeeper returns a *MissingError if the server or Java is not installed.
func FindZooKeeper() error {
	_, err := zookeeperJava()
	return err
}

// zookeeperJava finds Java and checks that the server's jars exist.
func zookeeperJava() (string, error) {
	java, err := exec.LookPath("java")
	for jar := range strings.SplitSeq(zookeeperJars, ":") {
		if err == nil {
			_, err = os.Stat(jar)
		}
	}
	if err != nil {
		return "", zookeeperPackages.missing("zookeeper", err)
	}
	return java, nil
}

// start plans all nodes first, since each must know the others, then starts them.
func (z *ZooKeeper) start(ctx context.Context, java string, nodes int) error {
	members := ""
	for i := range nodes {
		ports, err := ReservePorts(3) // for clients, for followers, for elections
		if err != nil {
			return err
		}
		dir := filepath.Join(z.folder.path, "zookeeper-"+strconv.Itoa(i+1))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		z.Nodes = append(z.Nodes, &ZooKeeperNode{Addr: ports[0].Addr, Dir: dir, ports: ports})
		members += fmt.Sprintf("server.%d=%s:%s\n", i+1, ports[1].Addr, portOf(ports[2].Addr))
	}
	if nodes == 1 {
		members = "" // standalone
	}
	group, ctx := errgroup.WithContext(ctx)
	for i, node := range z.Nodes {
		group.Go(func() error { return node.start(ctx, java, i+1, members) })
	}
	return group.Wait()
}

func (n *ZooKeeperNode) start(ctx context.Context, java string, id int, members string) error {
	settings := filepath.Join(n.Dir, "zoo.cfg")
	text := fmt.Sprintf(`tickTime=%d
initLimit=%d
syncLimit=%d
maxSessionTimeout=%d
dataDir=%s
clientPort=%s
clientPortAddress=%s
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=conf,srvr,mntr
%s`, zookeeperTick.Milliseconds(), zookeeperJoin, zookeeperSync, zookeeperMaxSession.Milliseconds(), n.Dir, portOf(n.Addr), loopback, members)
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(n.Dir, "myid"), []byte(strconv.Itoa(id)), 0o600); err != nil {
		return err
	}
	argv := []string{
		java,
		// These start the server within a second: the optimising compiler pays off later.
		"-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m",
		"-XX:-UsePerfData",                       // would create a file in the system's temporary folder
		"-Dzookeeper.preAllocSize=1024",          // KiB of log at a time; the default is 64 MiB
		"-Dznode.container.checkIntervalMs=1000", // remove empty containers soon; the default is a minute
		"-Dzookeeper.jmx.log4j.disable=true",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-cp", zookeeperJars, "org.apache.zookeeper.server.quorum.QuorumPeerMain", settings,
	}
	var err error
	n.Process, err = StartProcess(ctx, ProcessConfig{
		Name: "zookeeper-" + strconv.Itoa(id), Argv: argv, LogPath: filepath.Join(n.Dir, "zookeeper.log"),
		Ports: n.ports, Ready: n.ready,
	})
	return err
}

// ready compares the server's folder with ours: another server may answer at Addr.
// A node of an ensemble has a mode once it follows a leader or leads.
func (n *ZooKeeperNode) ready(ctx context.Context) error {
	settings, err := n.Ask(ctx, "conf")
	if err != nil {
		return err
	}
	if !strings.Contains(settings, "\ndataDir="+n.Dir+"/") {
		return fmt.Errorf("the server at %s is another one: %s", n.Addr, settings)
	}
	status, err := n.Ask(ctx, "srvr")
	if err == nil && !strings.Contains(status, "\nMode: ") {
		err = fmt.Errorf("zookeeper at %s: %s", n.Addr, strings.TrimSpace(status))
	}
	return err
}

// Ask sends one of the server's four-letter commands (conf, srvr, mntr) and returns
// the answer.
func (n *ZooKeeperNode) Ask(ctx context.Context, command string) (answer string, err error) {
	err = query(ctx, n.Addr, command, func(r *bufio.Reader) error {
		text, err := io.ReadAll(r)
		answer = string(text)
		return err
	})
	return answer, err
}
