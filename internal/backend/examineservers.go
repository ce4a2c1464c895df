package backend

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/go-zookeeper/zk"
	"github.com/redis/go-redis/v9"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"flashsale/internal/doctor"
	"flashsale/internal/lock/redislock"
	"flashsale/internal/strategy"
)

// The least versions have what the locks use: of Redis scripts that write what they
// have computed, of ZooKeeper containers and their TTL, of memcached cas.
var (
	leastRedis     = doctor.Version{Major: 6, Minor: 0}
	leastZooKeeper = doctor.Version{Major: 3, Minor: 5}
	leastMemcached = doctor.Version{Major: 1, Minor: 5}
)

// maxAnswer bounds what is read of a server that may be another one than we think.
const maxAnswer = 1 << 20

// examineRedis looks at one server, or at all of Redlock's.
func examineRedis(ctx context.Context, e *examination) error {
	quietRedis()
	var failed []error
	for _, addr := range e.servers.RedisAddrs {
		client, err := redislock.Open(addr)
		if err != nil {
			return err
		}
		if err := e.redisServer(ctx, client); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", joined([]string{addr}), err))
		}
		_ = client.Close() // it was only asked
	}
	if 2*len(failed) >= len(e.servers.RedisAddrs) {
		return errors.Join(failed...)
	}
	for _, err := range failed {
		e.Warn("answers", "start it: Redlock needs more than half of its servers", "%v", err)
	}
	return nil
}

func (e *examination) redisServer(ctx context.Context, client *redis.Client) error {
	at := "" // where there are several
	if len(e.servers.RedisAddrs) > 1 {
		at = " " + client.Options().Addr
	}
	text, err := client.Info(ctx).Result()
	if err != nil {
		return err
	}
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	e.checkVersion(strings.TrimSpace(at), info["redis_version"], leastRedis)
	if role := info["role"]; role != "master" {
		e.Fault("role"+at, "name the primary in --redis-addrs", "it is a replica of %s:%s", info["master_host"], info["master_port"])
	} else {
		e.Fine("role"+at, "primary")
	}
	// Nothing is written: XX only overwrites, and there is no such key.
	err = client.SetXX(ctx, e.key+"/doctor", "", redis.KeepTTL).Err()
	if err != nil && !errors.Is(err, redis.Nil) {
		e.Fault("writes"+at, "look at its log; NOPERM: let the account write the keys of --etcd-prefix; OOM: raise maxmemory; READONLY: name the primary", "refused: %v", err)
	} else {
		e.Fine("writes"+at, "it takes them")
	}
	if policy := info["maxmemory_policy"]; policy != "noeviction" && policy != "" {
		e.Warn("eviction"+at, "set maxmemory-policy to noeviction", "maxmemory-policy is %s: a lock that is evicted has two holders", policy)
	} else {
		e.Fine("eviction"+at, "none")
	}
	if info["aof_enabled"] != "1" {
		e.Warn("persistence"+at, "set appendonly yes and appendfsync always", "appendonly is off: a restart gives the locks to others")
	} else {
		e.Fine("persistence"+at, "appendonly is on")
	}
	return nil
}

// ask sends a command of a line protocol, and reads what comes until the server
// closes or a line ends it.
func ask(ctx context.Context, addr, command, end string) (lines []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	if _, err := io.WriteString(conn, command); err != nil {
		return nil, err
	}
	scanner := bufio.NewScanner(io.LimitReader(conn, maxAnswer))
	for scanner.Scan() && (end == "" || scanner.Text() != end) {
		lines = append(lines, scanner.Text())
	}
	return lines, scanner.Err()
}

func examineMemcached(ctx context.Context, e *examination) error {
	lines, err := ask(ctx, e.servers.MemcachedAddr, "stats\r\n", "END")
	if err != nil {
		return err
	}
	stats := map[string]string{}
	for _, line := range lines {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "STAT" {
			stats[fields[1]] = fields[2]
		}
	}
	if len(stats) == 0 {
		return fmt.Errorf("what answers there is no memcached: %.40q", strings.Join(lines, " "))
	}
	e.checkVersion("", stats["version"], leastMemcached)
	if n := stats["evictions"]; n != "0" {
		e.Warn("evictions", "give it more memory (-m), or a server of its own: a lock that is evicted has two holders", "%s since its start", n)
	} else {
		e.Fine("evictions", "none since its start")
	}
	return nil
}

func examineZooKeeper(ctx context.Context, e *examination) error {
	var silent []string
	for _, addr := range e.servers.ZooKeeperServers {
		lines, err := ask(ctx, addr, "srvr", "")
		if err != nil || len(lines) == 0 {
			silent = append(silent, addr)
			continue
		}
		e.zooKeeperServer(addr, lines)
	}
	if n := len(e.servers.ZooKeeperServers); 2*len(silent) >= n {
		return fmt.Errorf("%d of %d servers do not answer: %s", len(silent), n, strings.Join(silent, ", "))
	}
	if len(silent) > 0 {
		e.Warn("answers", "start them: an ensemble goes on while more than half of its servers run", "these servers do not: %s", strings.Join(silent, ", "))
	}
	// A session is a write that a quorum has agreed to.
	ctx, cancel := context.WithTimeout(ctx, 2*examineTimeout)
	defer cancel()
	conn, err := zooKeeper(ctx, &Config{Servers: *e.servers, TTL: examineTimeout})
	if err != nil {
		return err
	}
	defer conn.Close()
	// The second part fails, and the first, which is checked before it, is undone.
	root := "/" + strings.Trim(e.servers.Prefix, "/")
	_, err = conn.Multi(&zk.CreateRequest{Path: root + "/doctor", Acl: zk.WorldACL(zk.PermAll)}, &zk.CheckVersionRequest{Path: "/", Version: 1 << 30})
	switch {
	case errors.Is(err, zk.ErrBadVersion), errors.Is(err, zk.ErrNoNode): // the first replica makes the root
		e.Fine("writes", "it takes them")
	case err != nil:
		return err
	}
	return nil
}

// zooKeeperServer reads the answer to srvr.
func (e *examination) zooKeeperServer(addr string, lines []string) {
	status := map[string]string{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		status[name] = value
	}
	switch mode := status["Mode"]; mode {
	case "":
		if _, whitelisted := status["Zookeeper version"]; whitelisted || !strings.Contains(lines[0], "whitelist") {
			e.Fault("mode "+addr, "bring back so many servers that more than half run", "it serves nobody: %s", strings.Join(lines, " "))
		} else {
			e.Warn("mode "+addr, "add srvr to 4lw.commands.whitelist", "it does not tell")
		}
		return
	case "read-only":
		e.Fault("mode "+addr, "bring back so many servers that more than half run", "it is read-only")
	default:
		e.Fine("mode "+addr, "%s", mode)
	}
	version, _, _ := strings.Cut(status["Zookeeper version"], "-")
	e.checkVersion(addr, version, leastZooKeeper)
}

// kubeRights are what deploy/kubernetes/rbac.yaml grants, by the lock that needs it.
var kubeRights = map[strategy.Lock][]kubeRight{
	strategy.Lease: {{"coordination.k8s.io", "leases", "", []string{"get", "list", "watch", "create", "update"}}},
	strategy.StockLock: {
		{"flashsale.internal", "stocklocks", "", []string{"get", "list", "watch", "create"}},
		{"flashsale.internal", "stocklocks", "status", []string{"update"}},
	},
}

type kubeRight struct {
	group, resource, subresource string
	verbs                        []string
}

func examineKubernetes(ctx context.Context, e *examination) error {
	ctx, cancel := context.WithTimeout(ctx, 2*examineTimeout)
	defer cancel()
	cfg, err := e.servers.kubeConfig()
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return err
	}
	at, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return err
	}
	k := kubeServer{client, strings.TrimSuffix(at.String(), "/")}
	var version struct{ GitVersion string }
	if err := k.call(ctx, http.MethodGet, "/version", nil, &version); err != nil {
		return err
	}
	e.Fine("version", "%s", version.GitVersion)
	if e.strategy.Lock == strategy.StockLock {
		var resources struct{ Resources []struct{ Name string } }
		if err := k.call(ctx, http.MethodGet, "/apis/flashsale.internal/v1", nil, &resources); err != nil {
			e.Fault("custom resource", "kubectl apply -f deploy/kubernetes/stocklock.yaml", "there is no StockLock: %v", err)
		} else {
			e.Fine("custom resource", "StockLock is there")
		}
	}
	var lacks []string
	for _, right := range append(kubeRights[e.strategy.Lock], kubeRight{"", "namespaces", "", []string{"get"}}) {
		for _, verb := range right.verbs {
			allowed, err := k.may(ctx, e.servers.KubeNamespace, verb, right)
			if err != nil {
				return err
			}
			if !allowed {
				lacks = append(lacks, strings.TrimSuffix(verb+" "+right.resource+"/"+right.subresource, "/"))
			}
		}
	}
	if len(lacks) > 0 {
		e.Fault("rights", "kubectl apply -n "+e.servers.KubeNamespace+" -f deploy/kubernetes/rbac.yaml, and run as its service account",
			"the account may not: %s", strings.Join(lacks, ", "))
		return nil
	}
	e.Fine("rights", "all that rbac.yaml grants")
	if err := k.call(ctx, http.MethodGet, "/api/v1/namespaces/"+e.servers.KubeNamespace, nil, new(struct{})); err != nil {
		e.Fault("namespace", "kubectl create namespace "+e.servers.KubeNamespace+", or mend --kube-namespace", "%v", err)
	}
	return nil
}

// kubeServer is asked by plain HTTP: three calls want no client of their own.
type kubeServer struct {
	*http.Client
	host string
}

func (k kubeServer) call(ctx context.Context, method, path string, body, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, k.host+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := k.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return err
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		err := apierrors.NewGenericServerResponse(response.StatusCode, strings.ToLower(method), schema.GroupResource{}, path, "", 0, false)
		return fmt.Errorf("%s: %w", response.Status, err)
	}
	return json.Unmarshal(said, answer)
}

// may asks whether this account may do something, which every account may ask.
func (k kubeServer) may(ctx context.Context, namespace, verb string, right kubeRight) (bool, error) {
	attributes := map[string]string{"namespace": namespace, "verb": verb, "group": right.group, "resource": right.resource, "subresource": right.subresource}
	if right.resource == "namespaces" {
		attributes["name"] = namespace
	}
	review := map[string]any{"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": map[string]any{"resourceAttributes": attributes}}
	var answer struct{ Status struct{ Allowed bool } }
	err := k.call(ctx, http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review, &answer)
	return answer.Status.Allowed, err
}
