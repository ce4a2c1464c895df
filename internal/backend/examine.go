package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/go-zookeeper/zk"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"flashsale/internal/doctor"
	"flashsale/internal/strategy"
)

// Examine looks at the server that a strategy locks in, and changes nothing there:
// whether it answers, can write, and keeps what it is told. A strategy that needs no
// server but MySQL has an empty report.
func Examine(ctx context.Context, s strategy.Strategy, servers *Servers, database string) doctor.Report {
	examine := map[strategy.Server]func(context.Context, *examination) error{
		strategy.InEtcd: examineEtcd, strategy.InRedis: examineRedis, strategy.InRedlock: examineRedis,
		strategy.InMemcached: examineMemcached, strategy.InZooKeeper: examineZooKeeper, strategy.InKubernetes: examineKubernetes,
	}[s.Server]
	if examine == nil {
		return nil
	}
	e := &examination{servers: servers, strategy: s, key: servers.Prefix + database}
	if err := Check(s, servers); err != nil {
		e.Fault("flags", "name the server", "%v", err)
	} else if err := examine(ctx, e); err != nil {
		advice, _ := Refusal(err)
		if advice == "" {
			advice = "start it, or mend its address or the network between"
		}
		e.Fault(doctor.Answers, advice, "it does not: %v", err)
	}
	return e.Of(Address(s, servers))
}

// examination is what one Examine works with.
type examination struct {
	doctor.Report
	servers  *Servers
	strategy strategy.Strategy
	key      string // under the prefix of the database: an account may be allowed no more
}

// Refusal says what to do about an error that no waiting mends: the server has
// answered, and does not let this account in.
func Refusal(err error) (advice string, ok bool) {
	switch {
	case errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrUserNotFound):
		return "mend --etcd-username and --etcd-password", true
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return "grant its user to read and write the keys under --etcd-prefix", true
	case errors.Is(err, zk.ErrNoAuth), errors.Is(err, zk.ErrAuthFailed):
		return "let everybody make nodes under --etcd-prefix there (an ACL forbids it)", true
	case apierrors.IsUnauthorized(err):
		return "mend --kube-token-file, or the kubeconfig's credentials", true
	case apierrors.IsForbidden(err):
		return "apply deploy/kubernetes/rbac.yaml in --kube-namespace", true
	case apierrors.IsNotFound(err):
		return "make the namespace of --kube-namespace, and apply deploy/kubernetes", true
	}
	if unknown, ok := errors.AsType[*net.DNSError](err); ok && unknown.IsNotFound {
		return "mend the host's name in its flag", true
	}
	for _, prefix := range []string{"NOAUTH", "WRONGPASS", "NOPERM"} {
		if strings.Contains(err.Error(), prefix+" ") {
			return "mend the user and password in --redis-addrs (redis://user:password@host:port), or its rights", true
		}
	}
	return "", false
}

// checkVersion compares a server's version with the least that has what is used of it.
func (e *examination) checkVersion(at, version string, least doctor.Version) {
	check := strings.TrimSpace("version " + at)
	switch v, ok := doctor.ParseVersion(version); {
	case !ok:
		e.Warn(check, fmt.Sprintf("make sure that it is %s or later", least), "unknown: %q", version)
	case v.Before(least):
		e.Fault(check, fmt.Sprintf("use %s or later", least), "%s is too old", version)
	default:
		e.Fine(check, "%s", version)
	}
}
