package main

import (
	"errors"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
)

// Passwords become required while a replica sells, which goes on. A second run changes
// nothing but what differs. The service's user reaches its own keys only.
func TestEtcdRequiresPasswords(t *testing.T) {
	t.Parallel()
	own := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 3})
	const user, password = "service", "the password of the service"
	cfg := replicaConfig(newDSN(t), "a", strategy.Default)
	cfg.EtcdEndpoints = own.EtcdEndpoints()
	cfg.Args = append(cfg.Args, "--etcd-username="+user)
	cfg.Env = append(cfg.Env, "FLASHSALE_ETCD_PASSWORD="+password)
	c := start(t, cfg)
	c.putSKU("lamp", 100)
	awaitOrder(c, "lamp", "ann")
	enableAuth(t, own.EtcdEndpoints(), user, password)
	c.putSKU("sofa", 100)
	awaitOrder(c, "sofa", "ben")
	awaitOrder(c, "lamp", "cid")

	as := func(user, password string) *clientv3.Client {
		t.Helper()
		client, err := clientv3.New(clientv3.Config{Endpoints: own.EtcdEndpoints(), Username: user, Password: password, Logger: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		return client
	}
	const key = "flashsale/main/config/rate-limit-customer"
	service, root := as(user, password), as("root", "the password of root")
	for _, test := range []struct {
		who    string
		client *clientv3.Client
		key    string
		want   error
	}{
		{"nobody", as("", ""), key, rpctypes.ErrUserEmpty},
		{"the service", service, key, nil},
		{"the service", service, "flashsale0", rpctypes.ErrPermissionDenied},
		{"the service", service, "else", rpctypes.ErrPermissionDenied},
		{"root", root, key, nil},
	} {
		if _, err := test.client.Put(t.Context(), test.key, "1/10s"); !errors.Is(err, test.want) {
			t.Errorf("%s puts %s: got %v, want %v", test.who, test.key, err, test.want)
		}
	}
	if _, err := service.UserList(t.Context()); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("the service lists users: got %v", err)
	}

	before, err := root.AuthStatus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	enableAuth(t, own.EtcdEndpoints(), user, password)
	if after, err := root.AuthStatus(t.Context()); err != nil || after.AuthRevision != before.AuthRevision {
		t.Errorf("a second run has changed something: %+v, %v; before it %+v", after, err, before)
	}
	// Another service in the same etcd has other rights, and does not change these.
	mustTool(t, "etcd-auth", "--etcd-endpoints="+strings.Join(own.EtcdEndpoints(), ","), "--etcd-prefix=staging/", "--etcd-username=staging",
		"--etcd-password=the password of staging", "--etcd-root-password=the password of root")
	staging := as("staging", "the password of staging")
	for _, test := range []struct {
		client *clientv3.Client
		key    string
		want   error
	}{{service, key, nil}, {service, "staging/x", rpctypes.ErrPermissionDenied}, {staging, "staging/x", nil}, {staging, key, rpctypes.ErrPermissionDenied}} {
		if _, err := test.client.Put(t.Context(), test.key, "1/10s"); !errors.Is(err, test.want) {
			t.Errorf("with two services, a put of %s: got %v, want %v", test.key, err, test.want)
		}
	}
	// A right too many is taken away again, and the password is corrected.
	if _, err := root.RoleGrantPermission(t.Context(), user, "else", "", clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
		t.Fatal(err)
	}
	enableAuth(t, own.EtcdEndpoints(), user, "another password")
	if _, err := as(user, "another password").Put(t.Context(), "else", "1"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("the service puts else: got %v", err)
	}
	if out, err := tool(t, "etcd-auth", "--etcd-endpoints="+strings.Join(own.EtcdEndpoints(), ","), "--etcd-username="+user, "--etcd-password="+password,
		"--etcd-root-password=hidden"); err == nil || !strings.Contains(err.Error(), "correct --etcd-root-password") || strings.Contains(err.Error()+out, "hidden") {
		t.Errorf("a wrong password of root: %v\n%s", err, out)
	}
}
