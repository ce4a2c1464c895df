package backend

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"flashsale/internal/doctor"
	"flashsale/internal/strategy"
)

const (
	// examineTimeout bounds one question to one server, so that the others are asked too.
	examineTimeout = 2 * time.Second
	// maxAnswer bounds what is read, because the address may be that of another program.
	maxAnswer = 1 << 20
)

// Examine checks the lock server of a strategy: that it answers, accepts writes, and
// keeps its data. It changes nothing there. The report is empty if the strategy needs no
// server but MySQL.
func Examine(ctx context.Context, s strategy.Strategy, at *Servers, database string) doctor.Report {
	server, ok := servers[s.Server]
	if !ok {
		return nil
	}
	e := &examination{servers: at, strategy: s, key: at.Prefix + database}
	if err := Check(s, at); err != nil {
		e.Fault("flags", "name the server", "%v", err)
	} else if err := server.examine(ctx, e); err != nil {
		advice, ok := Refusal(err)
		if !ok {
			advice = "start it, or correct its address or the network"
		}
		e.Fault(doctor.Answers, advice, "it does not: %v", err)
	}
	return e.Of(Address(s, at))
}

// examination is the state of one Examine.
type examination struct {
	doctor.Report
	servers  *Servers
	strategy strategy.Strategy
	key      string // under the database's prefix, because an account may be limited to it
}

// refusals are errors that no retry can solve, because the server has answered and denies
// access to this account.
var refusals = []struct {
	is     func(error) bool
	advice string
}{
	{isAny(rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty, rpctypes.ErrUserNotFound), "correct --etcd-username and --etcd-password"},
	{isAny(rpctypes.ErrPermissionDenied), "let its user read and write the keys under --etcd-prefix"},
	{isAny(zk.ErrNoAuth, zk.ErrAuthFailed), "change the ACL so that everyone may create nodes under --etcd-prefix"},
	{apierrors.IsUnauthorized, "correct --kube-token-file, or the credentials in the kubeconfig"},
	{apierrors.IsForbidden, "apply deploy/kubernetes/locks/rbac.yaml in --kube-namespace"},
	{apierrors.IsNotFound, "create the namespace of --kube-namespace, and apply deploy/kubernetes"},
	{func(err error) bool {
		unknown, ok := errors.AsType[*net.DNSError](err)
		return ok && unknown.IsNotFound
	}, "correct the host name in its flag"},
	{func(err error) bool {
		return strings.Contains(err.Error(), "NOAUTH ") || strings.Contains(err.Error(), "WRONGPASS ") || strings.Contains(err.Error(), "NOPERM ")
	}, "correct the user and password in --redis-addrs (redis://user:password@host:port), or the user's rights"},
}

func isAny(targets ...error) func(error) bool {
	return func(err error) bool {
		for _, target := range targets {
			if errors.Is(err, target) {
				return true
			}
		}
		return false
	}
}

// Refusal returns what to do about an error that no retry can solve. ok is false for
// other errors.
func Refusal(err error) (advice string, ok bool) {
	for _, r := range refusals {
		if r.is(err) {
			return r.advice, true
		}
	}
	return "", false
}

// ask sends a command of a text protocol, and reads lines until the server closes the
// connection or sends the line end.
func ask(ctx context.Context, addr, command, end string) (lines []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := io.WriteString(conn, command); err != nil {
		return nil, err
	}
	scanner := bufio.NewScanner(io.LimitReader(conn, maxAnswer))
	for scanner.Scan() && (end == "" || scanner.Text() != end) {
		lines = append(lines, scanner.Text())
	}
	return lines, scanner.Err()
}

// fields splits each line at the first separator.
func fields(lines []string, separator string) map[string]string {
	found := map[string]string{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, separator)
		found[name] = value
	}
	return found
}
