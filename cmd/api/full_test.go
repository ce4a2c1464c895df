package main

import (
	"net/http"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
)

// A full etcd still answers reads. Replicas are then not ready to sell and do not start,
// but accept payments.
func TestFullEtcdIsNotReady(t *testing.T) {
	t.Parallel()
	own := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1})
	dsn := newDSN(t)
	cfg := replicaConfig(dsn, "a", strategy.Default)
	cfg.EtcdEndpoints = own.EtcdEndpoints()
	c := start(t, cfg)
	c.putSKU("lamp", 10)
	ann := awaitOrder(c, "lamp", "ann")
	setAlarm(t, own.EtcdEndpoints(), pb.AlarmRequest_ACTIVATE)
	// Before anyone queries /readyz: on Kubernetes, nobody does after the start.
	c.await("the metric says that the replica is not ready", func(f map[string]*family) bool {
		return f["flashsale_ready"] != nil && total(f["flashsale_ready"]) == 0
	})
	c.awaitReady(http.StatusServiceUnavailable, "etcd", "does not accept writes")
	if status, text, err := c.call("GET", "/readyz?for=reading", "", "", ""); err != nil || status != http.StatusOK {
		t.Errorf("readiness for reading: %d %s, %v", status, text, err)
	}
	if status, text, err := c.pay("ann", ann); err != nil || status != http.StatusOK {
		t.Errorf("a payment: %d %s, %v", status, text, err)
	}

	err := serve(t, "--mysql-dsn="+dsn, "--etcd-endpoints="+own.EtcdEndpoints()[0])
	if err == nil || !strings.Contains(err.Error(), "NOSPACE") {
		t.Errorf("a replica that starts: %v", err)
	}
	setAlarm(t, own.EtcdEndpoints(), pb.AlarmRequest_DEACTIVATE)
	c.awaitReady(http.StatusOK, "etcd", "ok")
	awaitOrder(c, "lamp", "ben")
}

// setAlarm raises or clears the alarm of a full etcd.
func setAlarm(t *testing.T, endpoints []string, action pb.AlarmRequest_AlarmAction) {
	t.Helper()
	etcd, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	members, err := etcd.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = pb.NewMaintenanceClient(etcd.ActiveConnection()).Alarm(t.Context(),
		&pb.AlarmRequest{Action: action, MemberID: members.Members[0].ID, Alarm: pb.AlarmType_NOSPACE})
	if err != nil {
		t.Fatal(err)
	}
}
