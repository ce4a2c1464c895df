package testbed

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/go-zookeeper/zk"

	"flashsale/deploy/kubernetes"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/image"
)

// ZooKeeperPods are the three servers of deploy/kubernetes/zookeeper on a real node.
type ZooKeeperPods struct {
	// Servers has an address of this machine for each pod's name.
	Servers []string
	node    *sandbox.Node
}

// podSession is the longest session that those servers grant. None expires while their
// leader is replaced.
const podSession = 20 * time.Second

// ZooKeeperPods is shared. Its node starts on first use.
func (r *Run) ZooKeeperPods() *ZooKeeperPods {
	z, err := shared(r.bed, &r.bed.pods, func() (*ZooKeeperPods, error) { return startPods(r.ctx) },
		func(z *ZooKeeperPods) error { return z.node.Close() })
	r.Check(err)
	return z
}

func startPods(ctx context.Context) (z *ZooKeeperPods, err error) {
	if err := sandbox.FindZooKeeper(); err != nil {
		return nil, err
	}
	node, err := sandbox.StartNode(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start ZooKeeper's pods: %w", err), node.Close())
		}
	}()
	if err := node.ImportImage(ctx, image.ZooKeeper("flashsale.local/zookeeper:1")); err != nil {
		return nil, err
	}
	folder := filepath.Join(node.Dir(), "manifests")
	if err := kubernetes.WriteOverlay(folder, "zookeeper"); err != nil {
		return nil, err
	}
	for _, args := range [][]string{{"apply", "--server-side", "--kustomize=" + folder}, {"rollout", "status", "statefulset/zookeeper"}} {
		if _, err := node.Kubectl(ctx, args...); err != nil {
			return nil, err
		}
	}
	z = &ZooKeeperPods{node: node, Servers: make([]string, 3)}
	for i := range z.Servers {
		if z.Servers[i], err = node.Forward(fmt.Sprintf("zookeeper-%d.zookeeper.default.svc.cluster.local", i), "2181"); err != nil {
			return nil, err
		}
	}
	return z, nil
}

// ZooKeeperSession begins a session of 20 s with some of those servers.
func (r *Run) ZooKeeperSession(servers ...string) *zk.Conn {
	conn, events, err := zk.Connect(servers, podSession, zk.WithLogger(silent{}))
	r.Check(err)
	context.AfterFunc(r.ctx, conn.Close) // calls that still wait return
	r.Cleanup(func() error {
		for end := time.After(podSession); ; {
			select {
			case _, more := <-events:
				if !more { // the session has ended
					return nil
				}
			case <-end:
				return errors.New("a session of ZooKeeper did not end")
			}
		}
	})
	return conn
}

// silent discards the library's log, which would mix with the lesson's.
type silent struct{}

func (silent) Printf(string, ...any) {}

// ReplaceLeader deletes the pod of ZooKeeper's leader, waits until a new pod has its name, and
// returns which of Servers that is.
func (z *ZooKeeperPods) ReplaceLeader(run *Run) (server string) {
	kubectl := func(args ...string) string {
		text, err := z.node.Kubectl(run.ctx, args...)
		run.Check(err)
		return text
	}
	for i, server := range z.Servers {
		pod := fmt.Sprintf("zookeeper-%d", i)
		if _, err := z.node.Exec(run.ctx, "default", pod, "/bin/bash", "/scripts/ask.sh", "srvr", "Mode: leader"); err != nil {
			continue
		}
		old := kubectl("get", "pod/"+pod, "--output=jsonpath={.status.podIP}")
		kubectl("delete", "pod/"+pod)
		kubectl("wait", "--for=create", "pod/"+pod, "--timeout=5m")
		kubectl("wait", "--for=condition=Ready", "pod/"+pod, "--timeout=5m")
		if kubectl("get", "pod/"+pod, "--output=jsonpath={.status.podIP}") == old {
			run.Fail("the new %s has the old one's address, %s", pod, old)
		}
		return server
	}
	run.Fail("ZooKeeper has no leader")
	return ""
}
