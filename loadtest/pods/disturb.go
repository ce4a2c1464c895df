package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// disturbance is what is done under load.
type disturbance struct {
	name string
	// do does it, waits until it has had its effect, and says to what it was done.
	do func(ctx context.Context, s *shop) (did string, err error)
	// planned: no answer may be unknown.
	planned bool
	// most is the largest share of orders that may be refused, and noSale the longest time
	// without a sale; 0 is no bound.
	most   float64
	noSale time.Duration
}

var update = disturbance{
	name: "rolling update", planned: true, most: refusedShare,
	do: func(ctx context.Context, s *shop) (string, error) {
		old, err := s.kubectl(ctx, "get", "pods", s.replicas(), "--output=name")
		if err != nil {
			return "", err
		}
		if _, err := s.kubectl(ctx, "rollout", "restart", s.deployment()); err != nil {
			return "", err
		}
		if err := s.rolledOut(ctx, s.deployment()); err != nil {
			return "", err
		}
		// An old pod goes on for FLASHSALE_DRAIN_DELAY after the roll-out, and only then closes
		// its connections.
		_, err = s.kubectl(ctx, append([]string{"wait", "--for=delete", wait}, strings.Fields(old)...)...)
		return "3 replicas, one at a time", err
	},
}

var replicaDeleted = disturbance{
	name: "a replica's pod deleted", planned: true,
	do: func(ctx context.Context, s *shop) (string, error) {
		seller, err := s.seller(ctx)
		if err != nil {
			return "", err
		}
		if _, err := s.kubectl(ctx, "delete", "pod/"+seller); err != nil {
			return "", err
		}
		return seller + ", the seller", s.rolledOut(ctx, s.deployment())
	},
}

// seller returns the pod of the replica that sells.
func (s *shop) seller(ctx context.Context) (pod string, err error) {
	err = until(ctx, func(ctx context.Context) (bool, error) {
		pod, err = s.service.Holder(ctx, s.sku)
		return pod != "", err
	})
	return pod, err
}

var etcdLeaderDeleted = disturbance{
	name: "etcd's leader deleted",
	do: func(ctx context.Context, s *shop) (string, error) {
		text, err := s.node.Exec(ctx, namespace, "etcd-0", "etcdctl", "--user=flashsale:"+s.etcdPassword, "endpoint", "status", "--cluster", "--write-out=json")
		if err != nil {
			return "", err
		}
		var members []struct {
			Endpoint string `json:"Endpoint"`
			Status   struct {
				Header struct {
					MemberID uint64 `json:"member_id"`
				} `json:"header"`
				Leader uint64 `json:"leader"`
			} `json:"Status"`
		}
		if err := json.Unmarshal([]byte(text), &members); err != nil {
			return "", fmt.Errorf("etcdctl endpoint status: %w", err)
		}
		for _, m := range members {
			if m.Status.Header.MemberID == m.Status.Leader {
				pod, _, _ := strings.Cut(strings.TrimPrefix(m.Endpoint, "http://"), ".")
				return pod, s.deleteMember(ctx, pod)
			}
		}
		return "", errors.New("etcd has no leader")
	},
}

var zookeeperLeaderDeleted = disturbance{
	name: "ZooKeeper's leader deleted",
	do: func(ctx context.Context, s *shop) (string, error) {
		for _, pod := range []string{"zookeeper-0", "zookeeper-1", "zookeeper-2"} {
			if _, err := s.node.Exec(ctx, namespace, pod, "/bin/bash", "/scripts/ask.sh", "srvr", "Mode: leader"); err == nil {
				return pod, s.deleteMember(ctx, pod)
			}
		}
		return "", errors.New("ZooKeeper has no leader")
	},
}

var primaryDeleted = disturbance{
	name: "MySQL's primary deleted", noSale: 30 * time.Second,
	do: func(ctx context.Context, s *shop) (string, error) {
		primary, err := s.primary(ctx)
		if err != nil {
			return "", err
		}
		return primary, s.deleteMember(ctx, primary)
	},
}

// deleteMember deletes a pod of a StatefulSet, and waits until it is gone.
func (s *shop) deleteMember(ctx context.Context, pod string) error {
	_, err := s.kubectl(ctx, "delete", "pod/"+pod)
	return err
}
