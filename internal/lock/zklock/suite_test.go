package zklock

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

const (
	testTTL    = 2 * time.Second
	testPrefix = "/flashsale/test/lock"
	testOwner  = "r@h:1"
	// longTTL is longer than the tests wait, so that the end of a session cannot make them
	// pass.
	longTTL = time.Minute
	// suiteLongTTL is for the suite, whose waits are shorter. A restarting server may accept
	// a connection and be silent; the client leaves it after half of this (silenceShare).
	suiteLongTTL = 25 * time.Second
)

var backend = locktest.Backend{
	Name: "zookeeper", Capabilities: Capabilities, TTL: testTTL,
	LongTTL: suiteLongTTL, Open: open,
	Start: func(tb testing.TB) locktest.Server { return start(tb, 1) },
}

func open(address string, ttl time.Duration) (lock.Locker, func() error, error) {
	l, err := New(Config{Servers: strings.Split(address, ","), Prefix: testPrefix, TTL: ttl, Owner: testOwner})
	if err != nil {
		return nil, nil, err
	}
	return l, func() error { l.stragglers.Wait(); return nil }, nil
}

func TestMain(m *testing.M) { locktest.Main(m, backend) }

func TestLocker(t *testing.T) { locktest.Run(t, backend) }

// server is a ZooKeeper, with an operator's client.
type server struct {
	*sandbox.ZooKeeper
	sandboxtest.Processes
	conn *zk.Conn
}

func start(tb testing.TB, nodes int) *server {
	tb.Helper()
	z, err := sandbox.StartZooKeeper(tb.Context(), nodes)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := z.Close(); err != nil {
			tb.Error(err)
		}
	})
	conn, events, err := zk.Connect(z.Addrs(), longTTL, zk.WithLogger(silent{}))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		for _, node := range z.Nodes {
			node.Kill() // otherwise Close waits for an answer
		}
		conn.Close()
		for range events {
		}
	})
	s := &server{ZooKeeper: z, conn: conn}
	for _, node := range z.Nodes {
		s.Processes = append(s.Processes, node.Process)
	}
	return s
}

type silent struct{}

func (silent) Printf(string, ...any) {}

func (s *server) Address() string { return strings.Join(s.Addrs(), ",") }

func (s *server) Entries(tb testing.TB, name string) []string {
	tb.Helper()
	path := (&Locker{cfg: Config{Prefix: testPrefix}}).pathOf(name)
	nodes, _, err := s.conn.Children(path)
	if err != nil && !errors.Is(err, zk.ErrNoNode) {
		tb.Fatal(err)
	}
	entries := inOrder(nodes)
	for i, node := range entries {
		entries[i] = path + "/" + node
	}
	return entries
}

func (s *server) Remove(tb testing.TB, entry string) {
	tb.Helper()
	if err := s.conn.Delete(entry, anyVersion); err != nil {
		tb.Fatal(err)
	}
}

// Revoke ends the session of an entry. ZooKeeper has no command for that, so it connects
// to the session, whose password depends on its id only.
func (s *server) Revoke(tb testing.TB, entry string) {
	tb.Helper()
	// The session's owner reconnects at once, and may be faster.
	for range revocations {
		_, stat, err := s.conn.Get(entry)
		if errors.Is(err, zk.ErrNoNode) {
			return
		}
		if err != nil {
			tb.Fatal(err)
		}
		if err := endSession(s.Nodes[0].Addr, stat.EphemeralOwner); err != nil {
			tb.Fatal(err)
		}
	}
	tb.Fatalf("the session of %s did not end", entry)
}

const revocations = 100

// endSession connects to a session and closes it.
func endSession(addr string, id int64) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	connect := binary.BigEndian.AppendUint32(nil, 0)             // the protocol's version
	connect = binary.BigEndian.AppendUint64(connect, 0)          // last transaction seen
	connect = binary.BigEndian.AppendUint32(connect, 10_000)     // time-out
	connect = binary.BigEndian.AppendUint64(connect, uint64(id)) // session
	connect = binary.BigEndian.AppendUint32(connect, passwordLength)
	connect = append(connect, password(id)...)
	const closeSession = -11
	closing := binary.BigEndian.AppendUint32(nil, 1) // number of the request
	closing = binary.BigEndian.AppendUint32(closing, uint32(0xffffffff+closeSession+1))
	// In one packet, so that the owner cannot reconnect in between.
	var both []byte
	for _, request := range [][]byte{connect, closing} {
		both = append(binary.BigEndian.AppendUint32(both, uint32(len(request))), request...)
	}
	if _, err := conn.Write(both); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn) // until the server has closed it
	return err
}

const passwordLength = 16

// password returns the password that the server derives from a session's id, by
// java.util.Random.
func password(id int64) []byte {
	const secret, multiplier, mask = 0xB3415C00, 0x5DEECE66D, 1<<48 - 1
	seed := (uint64(id) ^ secret ^ multiplier) & mask
	var bytes []byte
	for len(bytes) < passwordLength {
		seed = (seed*multiplier + 0xB) & mask
		bytes = binary.LittleEndian.AppendUint32(bytes, uint32(seed>>16))
	}
	return bytes
}

// newLocker makes a Locker. The test's end closes it.
func newLocker(tb testing.TB, ttl time.Duration, servers ...string) *Locker {
	tb.Helper()
	return newLockerWith(tb, Config{Servers: servers, TTL: ttl})
}

func newLockerWith(tb testing.TB, cfg Config) *Locker {
	tb.Helper()
	cfg.Prefix, cfg.Owner = testPrefix, testOwner
	l, err := New(cfg)
	return locktest.Opened(tb, l, err, func() error { l.stragglers.Wait(); return nil })
}
