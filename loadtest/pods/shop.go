package pods

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"golang.org/x/sync/errgroup"

	manifests "flashsale/deploy/kubernetes"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/image"
	"flashsale/internal/sleep"
	"flashsale/loadtest/attack"
)

const (
	namespace = "flashsale"
	// patience bounds each wait for the node, which may share a slow machine.
	patience = 10 * time.Minute
	poll     = 100 * time.Millisecond
	// network is the name under which MySQL's driver dials in the node's network.
	network = "tcp-node"
)

// The images of the node, which replace those of the demo.
const (
	apiImage       = "flashsale.local/api:1"
	etcdImage      = "flashsale.local/etcd:1"
	zookeeperImage = "flashsale.local/zookeeper:1"
	mysqlImage     = "flashsale.local/mysql:1"
)

// shop is the service on the node under one strategy, with its servers.
type shop struct {
	cfg  Config
	node *sandbox.Node
	// Of the service's account and of the tables' owner in MySQL, and of its user in etcd.
	password, ownerPassword, etcdPassword string

	strategy string
	name     string // of the Deployment, of its label and of its Service
	service  *attack.Service
	sku      string // on sale
	ready    time.Duration
	version  string
}

// open applies the manifests, and waits until the service answers.
func open(ctx context.Context, cfg Config, node *sandbox.Node) (*shop, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cfg.Say("Making the images ...")
	etcd, err := sandbox.EtcdImage(etcdImage)
	if err != nil {
		return nil, err
	}
	database, err := sandbox.MySQLImage(mysqlImage)
	if err != nil {
		return nil, err
	}
	group, imports := errgroup.WithContext(ctx)
	for _, im := range []*image.Image{image.API(apiImage, cfg.API), etcd, image.ZooKeeper(zookeeperImage), database} {
		group.Go(func() error { return node.ImportImage(imports, im) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	began := time.Now()
	cfg.Say("Applying deploy/kubernetes/demo ...")
	s := &shop{cfg: cfg, node: node, strategy: first, name: "flashsale"}
	if err := manifests.WriteOverlay(s.manifests(), "demo"); err != nil {
		return nil, err
	}
	if _, err := node.Kubectl(ctx, "apply", "--server-side", "--kustomize="+s.manifests()); err != nil {
		return nil, err
	}
	if err := s.whole(ctx); err != nil {
		return nil, err
	}
	if err := s.migrated(ctx); err != nil {
		return nil, err
	}
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	if err := s.answers(ctx); err != nil {
		return nil, err
	}
	s.ready = time.Since(began)
	if err := s.createDatabases(ctx); err != nil {
		return nil, err
	}
	s.version, err = s.query(ctx, "mysql-0", "SELECT CONCAT('MySQL ', VERSION(), ', Group Replication of 3')")
	return s, err
}

func (s *shop) manifests() string { return filepath.Join(s.node.Dir(), "manifests") }

var wait = "--timeout=" + patience.String()

func (s *shop) kubectl(ctx context.Context, args ...string) (string, error) {
	return s.node.Kubectl(ctx, append([]string{"--namespace=" + namespace}, args...)...)
}

// whole waits until all pods of the servers and of this strategy are ready.
func (s *shop) whole(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range []string{"statefulset/mysql", "statefulset/etcd", "statefulset/zookeeper", s.deployment()} {
		group.Go(func() error { return s.rolledOut(ctx, part) })
	}
	return group.Wait()
}

func (s *shop) rolledOut(ctx context.Context, part string) error {
	_, err := s.kubectl(ctx, "rollout", "status", part, wait)
	return err
}

// deployment is the replicas' for kubectl, and replicas selects their pods.
func (s *shop) deployment() string { return "deployment/" + s.name }
func (s *shop) replicas() string   { return "--selector=app.kubernetes.io/name=" + s.name }

// ending returns the replicas' pods that were told to end and have not ended.
func (s *shop) ending(ctx context.Context) (string, error) {
	return s.kubectl(ctx, "get", "pods", s.replicas(), "--output=go-template={{range .items}}{{if .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}")
}

// connect finds the service and its secrets.
func (s *shop) connect(ctx context.Context) error {
	mysql.RegisterDialContext(network, func(ctx context.Context, addr string) (net.Conn, error) { return s.node.Dial(ctx, "tcp", addr) })
	address, err := s.address(ctx)
	if err != nil {
		return err
	}
	transport := &http.Transport{DialContext: s.node.Dial, DisableKeepAlives: true}
	s.service = &attack.Service{URL: address, Client: &http.Client{Transport: transport, Timeout: attack.RequestTimeout}, Patience: patience}
	for key, value := range map[string]*string{
		"FLASHSALE_ADMIN_TOKEN": &s.service.AdminToken, "FLASHSALE_JWT_SECRET": &s.service.JWTSecret, "MYSQL_PASSWORD": &s.password,
		"MYSQL_OWNER_PASSWORD": &s.ownerPassword, "FLASHSALE_ETCD_PASSWORD": &s.etcdPassword,
	} {
		text, err := s.kubectl(ctx, "get", "secrets", "--output=go-template={{range .items}}{{with index .data \""+key+"\"}}{{base64decode .}}{{end}}{{end}}")
		if err != nil {
			return err
		}
		if *value = text; text == "" {
			return fmt.Errorf("no secret of the namespace has %s", key)
		}
	}
	return nil
}

// address is the URL of the service.
func (s *shop) address(ctx context.Context) (string, error) {
	ip, err := s.kubectl(ctx, "get", "service/"+s.name, "--output=jsonpath={.spec.clusterIP}")
	return "http://" + net.JoinHostPort(ip, "80"), err
}

// answers waits until the service answers at its ClusterIP: kube-proxy learns of ready pods
// a little later than kubectl.
func (s *shop) answers(ctx context.Context) error {
	var last error
	err := until(ctx, func(ctx context.Context) (bool, error) {
		last = s.service.Check(ctx)
		return last == nil, nil
	})
	if err != nil {
		err = errors.Join(err, last)
	}
	return err
}

// until calls f until it returns true.
func until(ctx context.Context, f func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if done, err := f(ctx); done || err != nil {
			return err
		}
		if err := sleep.For(ctx, poll); err != nil {
			return context.Cause(ctx)
		}
	}
}

// startBeside starts replicas of another strategy, with a database and a Service of their own,
// and makes them the shop's. All else is as in the Deployment of the manifests.
func (s *shop) startBeside(ctx context.Context, strategy string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	spec, err := s.kubectl(ctx, "get", s.deployment(), "--output=jsonpath={.spec}")
	if err != nil {
		return err
	}
	s.strategy, s.name = strategy, s.name+"-"+strategy
	if spec, err = s.specOf(spec); err != nil {
		return err
	}
	deployment := fmt.Sprintf(`{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": %q}, "spec": %s}`, s.name, spec)
	if _, err := s.node.KubectlInput(ctx, deployment, "--namespace="+namespace, "create", "--filename=-"); err != nil {
		return err
	}
	if _, err := s.kubectl(ctx, "expose", s.deployment(), "--port=80", "--target-port=http"); err != nil {
		return err
	}
	service := *s.service
	s.service = &service
	if service.URL, err = s.address(ctx); err != nil {
		return err
	}
	return errors.Join(s.rolledOut(ctx, s.deployment()), s.answers(ctx))
}

// specOf returns the specification of the manifests' Deployment, as JSON, for this strategy. The
// manifests' NetworkPolicies do not name its pods: this node has nothing that enforces them.
func (s *shop) specOf(spec string) (string, error) {
	const label, database, env = `"app.kubernetes.io/name":"flashsale"`, `$(MYSQL_HOSTS))/flashsale"`, `"env":[`
	for _, replace := range [][2]string{
		{label, fmt.Sprintf(`"app.kubernetes.io/name":%q`, s.name)},
		{database, fmt.Sprintf(`$(MYSQL_HOSTS))/%s"`, s.database())},
		{env, fmt.Sprintf(`"env":[{"name":"FLASHSALE_STRATEGY","value":%q},`, s.strategy)},
	} {
		if !strings.Contains(spec, replace[0]) {
			return "", fmt.Errorf("the Deployment has no %s", replace[0])
		}
		spec = strings.ReplaceAll(spec, replace[0], replace[1])
	}
	return spec, nil
}

// database is that of the strategy. A database belongs to one strategy.
func (s *shop) database() string { return databaseOf(s.strategy) }

func databaseOf(strategy string) string {
	if strategy == first {
		return "flashsale"
	}
	return "flashsale_" + strings.ReplaceAll(strategy, "-", "_")
}

// createDatabases makes those of the strategies after the first one. The accounts get the
// rights there that they have in the first one's.
func (s *shop) createDatabases(ctx context.Context) error {
	primary, err := s.primary(ctx)
	if err != nil {
		return err
	}
	grants, err := s.query(ctx, primary, "SHOW GRANTS FOR flashsale; SHOW GRANTS FOR flashsale_owner")
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, strategy := range others() {
		name := databaseOf(strategy)
		sql := "CREATE DATABASE " + name + ";" + grantsFor(name, grants)
		group.Go(func() error {
			if _, err := s.query(ctx, primary, sql); err != nil {
				return err
			}
			dsn := fmt.Sprintf("flashsale_owner:%s@tcp(mysql-0.mysql:3306,mysql-1.mysql:3306,mysql-2.mysql:3306)/%s", s.ownerPassword, name)
			_, err := s.node.Exec(ctx, namespace, "deployment/flashsale", "/api", "migrate", "--mysql-dsn="+dsn)
			return err
		})
	}
	return group.Wait()
}

// grantsFor returns the grants for the database flashsale as statements for another one.
func grantsFor(name, grants string) string {
	var sql strings.Builder
	for line := range strings.Lines(grants) {
		if before, after, ok := strings.Cut(strings.TrimSpace(line), " ON `flashsale`.* "); ok {
			sql.WriteString(before + " ON `" + name + "`.* " + after + ";")
		}
	}
	return sql.String()
}

func (s *shop) migrated(ctx context.Context) error {
	_, err := s.kubectl(ctx, "wait", "--for=condition=complete", "job/flashsale-migrate", wait)
	return err
}

// query runs SQL as MySQL's administrator, in a server's pod.
func (s *shop) query(ctx context.Context, pod, sql string) (string, error) {
	text, err := s.node.Exec(ctx, namespace, pod, "mysql", "--socket=/run/mysqld/mysqld.sock", "--user=root", "-NBe", sql)
	return strings.TrimSpace(text), err
}

// primary returns the pod of MySQL's primary.
func (s *shop) primary(ctx context.Context) (pod string, err error) {
	err = until(ctx, func(ctx context.Context) (bool, error) {
		for _, asked := range []string{"mysql-0", "mysql-1", "mysql-2"} {
			// A pod that is being replaced cannot be asked.
			host, err := s.query(ctx, asked, "SELECT member_host FROM performance_schema.replication_group_members WHERE member_role = 'PRIMARY' AND member_state = 'ONLINE'")
			if err == nil && host != "" {
				pod, _, _ = strings.Cut(host, ".")
				return true, nil
			}
		}
		return false, nil
	})
	return pod, err
}

// dsn leads to MySQL's servers. The one that accepts writes is used.
func (s *shop) dsn(ctx context.Context) (string, error) {
	text, err := s.kubectl(ctx, "get", "pods", "--selector=app.kubernetes.io/name=mysql", "--output=jsonpath={.items[*].status.podIP}")
	if err != nil {
		return "", err
	}
	hosts := strings.Fields(text)
	for i := range hosts {
		hosts[i] = net.JoinHostPort(hosts[i], "3306")
	}
	return fmt.Sprintf("flashsale:%s@%s(%s)/%s", s.password, network, strings.Join(hosts, ","), s.database()), nil
}

// stockLocks returns what kubectl shows of the lock of the SKU on sale, and not of the last
// units that were ordered after it.
func (s *shop) stockLocks(ctx context.Context) (string, error) {
	text, err := s.kubectl(ctx, "get", "stocklocks")
	var shown strings.Builder
	for line := range strings.Lines(text) {
		if shown.Len() == 0 || slices.Contains(strings.Fields(line), s.sku) {
			shown.WriteString(line)
		}
	}
	return shown.String(), err
}

// audit runs the CronJob of the audit once, and reports whether it found nothing.
func (s *shop) audit(ctx context.Context) (bool, error) {
	if _, err := s.kubectl(ctx, "create", "job", "audit", "--from=cronjob/flashsale-audit"); err != nil {
		return false, err
	}
	status := ""
	err := until(ctx, func(ctx context.Context) (bool, error) {
		var err error
		status, err = s.kubectl(ctx, "get", "job/audit", "--output=jsonpath={.status.succeeded}/{.status.failed}")
		return status != "/" && status != "", err
	})
	if err != nil {
		return false, err
	}
	if status != "1/" {
		text, err := s.kubectl(ctx, "logs", "job/audit")
		s.cfg.Say("The audit failed:\n%s", text)
		return false, err
	}
	return true, nil
}
