package lesson

import (
	"context"
	"errors"

	"github.com/go-zookeeper/zk"

	"flashsale/internal/strategy"
	"flashsale/loadtest/lesson/testbed"
)

var zooKeeperOnKubernetes = Lesson{
	Name:    "zookeeper-on-kubernetes",
	Title:   "a new pod that takes its predecessor's lock for its own",
	Chinese: "Kubernetes 上的 ZooKeeper 锁：持有者是会话，不是 Pod 的名称",
	Shows: "ZooKeeper runs as three pods. A is the pod shop-0. Its machine did not answer, so the pod was deleted by force, but its process still runs. " +
		"B is the new pod shop-0.",
	Servers: []string{MySQL, ZooKeeper, Node},
	Variants: []Variant{
		{Title: "the owner of the lock is the pod's name", Breaks: true, Script: func(run *testbed.Run) {
			a, b, _ := podBuyers(run)
			a.acquire()
			a.Read()
			if owner, _ := b.owner(); owner != podName {
				run.Fail("the owner is %s", owner)
			}
			b.To(ZooKeeper, testbed.Lock).Log("the lock is shop-0's: takes it for its own, from before a restart")
			b.Read()
			b.Sell(1)
			a.Sell(1)
		}},
		{Title: "the owner is the session that created the node", Script: func(run *testbed.Run) {
			a, b, pods := podBuyers(run)
			a.acquire()
			a.Read()
			operator := run.Actor("kubectl")
			operator.To(ZooKeeper, testbed.Fault).Log("deletes the pod of ZooKeeper's leader")
			b.conn = run.ZooKeeperSession(pods.ReplaceLeader(run))
			operator.To(ZooKeeper, testbed.Note).Log("a new pod has its name and volume, and another address")
			name, session := b.owner()
			if name != podName || session != a.conn.SessionID() || session == b.conn.SessionID() {
				run.Fail("the lock is that of %s, session %x", name, session)
			}
			b.To(ZooKeeper, testbed.Refuse).Log("connects to that pod: the lock is shop-0's, but of another session: must wait")
			granted := b.watch()
			a.Sell(1)
			granted.MustBlock()
			a.conn.Close()
			a.To(ZooKeeper, testbed.Lock).Log("ends its session, and so its node")
			granted.Finish()
			b.acquire()
			b.ReadAndSell()
		}},
		{Title: "the service's own lock, while A is paused: its session expires, and MySQL refuses its token", Script: func(run *testbed.Run) {
			resumeBeforeWrite(run, strategy.ZooKeeper, strategy.FenceClaim)
		}},
	},
}

// podName is the name of A's pod, and of the pod that replaces it.
const podName = "shop-0"

// podBuyer is a buyer that locks with an ephemeral node, which contains its pod's name.
type podBuyer struct {
	*testbed.Buyer
	run  *testbed.Run
	conn *zk.Conn
}

func podBuyers(run *testbed.Run) (a, b *podBuyer, pods *testbed.ZooKeeperPods) {
	pods = run.ZooKeeperPods()
	shop := run.Shop(1)
	buyer := func(name string) *podBuyer {
		return &podBuyer{shop.Buyer(name), run, run.ZooKeeperSession(pods.Servers...)}
	}
	return buyer("A"), buyer("B"), pods
}

func (b *podBuyer) lock() string { return "/" + b.run.Name }

// acquire creates the node, which must not exist.
func (b *podBuyer) acquire() {
	_, err := b.conn.Create(b.lock(), []byte(podName), zk.FlagEphemeral, zk.WorldACL(zk.PermAll))
	b.run.Check(err)
	b.To(ZooKeeper, testbed.Lock).Log("creates an ephemeral node with its pod's name, shop-0: acquires the lock")
}

// owner returns the name in the node and the session that created it.
func (b *podBuyer) owner() (name string, session int64) {
	b.retry(func() error {
		if _, err := b.conn.Sync(b.lock()); err != nil { // its server may lag behind
			return err
		}
		data, stat, err := b.conn.Get(b.lock())
		if err == nil {
			name, session = string(data), stat.EphemeralOwner
		}
		return err
	})
	return name, session
}

// watch returns a step that ends when the node is deleted.
func (b *podBuyer) watch() *testbed.Step {
	var gone <-chan zk.Event
	b.retry(func() (err error) {
		_, _, gone, err = b.conn.GetW(b.lock())
		return err
	})
	return b.To(ZooKeeper, testbed.Lock).Start("watches the node and waits", func(ctx context.Context) error {
		select {
		case event := <-gone:
			return event.Err
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// retry repeats a read that has lost its connection: that its server is replaced ends the
// connection, and not the session.
func (b *podBuyer) retry(read func() error) {
	b.run.Until("ZooKeeper answers "+b.Name, func(context.Context) (bool, error) {
		err := read()
		if errors.Is(err, zk.ErrConnectionClosed) || errors.Is(err, zk.ErrNoServer) {
			return false, nil
		}
		return err == nil, err
	})
}
