package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// zookeeperPackages are Debian's. They have the server and no service; the
	// package zookeeper would bring a desktop's Java with it.
	zookeeperPackages = "libzookeeper-java default-jre-headless"
	// zookeeperJars are the server, whose manifest names what it needs, and what
	// writes its log to stderr.
	zookeeperJars = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar"
	// zookeeperTick is the server's unit of time. It sets how long after its end
	// a session is seen to have expired, and a session lasts two at least.
	zookeeperTick = 250 * time.Millisecond
	// zookeeperMaxSession is the longest session: for tests that must not be
	// helped by a session's end. The server's own default is 20 ticks.
	zookeeperMaxSession = 2 * time.Minute
	// zookeeperJoin is what a node may take to join its ensemble, and to follow
	// its leader, in ticks. Two cores that start three JVMs need some seconds.
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

// StartZooKeeper starts so many servers on free ports, with their data in a
// temporary folder. They are gone after Close, or with this process. ctx bounds
// the start alone.
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

// Close ends the servers and removes their data.
func (z *ZooKeeper) Close() error {
	var group errgroup.Group
	for _, node := range z.Nodes {
		if node.Process != nil {
			group.Go(func() error { return node.Stop(context.Background()) })
		}
	}
	return errors.Join(group.Wait(), z.folder.remove())
}

// FindZooKeeper says whether the server and its Java are installed.
func FindZooKeeper() error {
	_, err := zookeeperJava()
	return err
}

// zookeeperJava finds Java and the server's jar.
func zookeeperJava() (string, error) {
	java, err := exec.LookPath("java")
	for jar := range strings.SplitSeq(zookeeperJars, ":") {
		if err == nil {
			_, err = os.Stat(jar)
		}
	}
	if err != nil {
		return "", fmt.Errorf("zookeeper is not installed: run `scripts/setup --zookeeper` or `apt-get install %s`: %w", zookeeperPackages, err)
	}
	return java, nil
}

// start plans all nodes, since each has to know the others, and starts them.
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
		_, election, _ := net.SplitHostPort(ports[2].Addr) // our own
		members += fmt.Sprintf("server.%d=%s:%s\n", i+1, ports[1].Addr, election)
	}
	if nodes == 1 {
		members = "" // a server of its own
	}
	group, ctx := errgroup.WithContext(ctx)
	for i, node := range z.Nodes {
		group.Go(func() error { return node.start(ctx, java, i+1, members) })
	}
	return group.Wait()
}

func (n *ZooKeeperNode) start(ctx context.Context, java string, id int, members string) error {
	host, port, _ := net.SplitHostPort(n.Addr) // our own
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
%s`, zookeeperTick.Milliseconds(), zookeeperJoin, zookeeperSync, zookeeperMaxSession.Milliseconds(), n.Dir, port, host, members)
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(n.Dir, "myid"), []byte(strconv.Itoa(id)), 0o600); err != nil {
		return err
	}
	argv := []string{
		java,
		// To start in a second: the optimising compiler pays off later.
		"-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m",
		"-XX:-UsePerfData",                       // a file in the system's folder for temporary ones
		"-Dzookeeper.preAllocSize=1024",          // KiB of log at a time, not 64 MiB
		"-Dznode.container.checkIntervalMs=1000", // a folder is removed soon, not within a minute
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

// ready asks for the folder: an answer from another server is none. A node of an
// ensemble has a mode once it follows a leader, or leads.
func (n *ZooKeeperNode) ready(ctx context.Context) error {
	settings, err := n.Ask(ctx, "conf")
	if err != nil {
		return err
	}
	if !strings.Contains(settings, "\ndataDir="+n.Dir+"/") {
		return fmt.Errorf("another server answers at %s: %s", n.Addr, settings)
	}
	status, err := n.Ask(ctx, "srvr")
	if err == nil && !strings.Contains(status, "\nMode: ") {
		err = fmt.Errorf("zookeeper at %s: %s", n.Addr, strings.TrimSpace(status))
	}
	return err
}

// Ask sends one of the server's commands of four letters: conf, srvr, mntr.
func (n *ZooKeeperNode) Ask(ctx context.Context, command string) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", n.Addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	if _, err := io.WriteString(conn, command); err != nil {
		return "", fmt.Errorf("ask %s: %w", command, err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", command, err)
	}
	return string(answer), nil
}
