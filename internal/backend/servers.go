package backend

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"strings"

	"github.com/dustin/go-humanize"

	"flashsale/internal/strategy"
)

// Servers are the addresses of everything that a strategy may lock in. Only the
// ones that the chosen strategy needs are looked at. They are flags of a command.
type Servers struct {
	EtcdEndpoints []string `name:"etcd-endpoints" exact:"" placeholder:"URL" help:"etcd's client URLs; needed by strategies that use etcd."`
	EtcdUsername  string   `name:"etcd-username" exact:"" help:"User of etcd, where it asks for one."`
	EtcdPassword  string   `name:"etcd-password" exact:"" help:"Password of that user: give it in FLASHSALE_ETCD_PASSWORD or --config rather than here."`
	EtcdCA        string   `name:"etcd-ca" placeholder:"FILE" help:"CA that signed etcd's certificate."`
	EtcdCert      string   `name:"etcd-cert" placeholder:"FILE" help:"Client certificate for etcd, where it asks for one."`
	EtcdKey       string   `name:"etcd-key" placeholder:"FILE" help:"Key of --etcd-cert."`
	Prefix        string   `name:"etcd-prefix" exact:"" default:"flashsale/" help:"Prefix of all keys, in etcd and in every other lock server, before the database's name; databases of one name need one each."`

	RedisAddrs       []string `name:"redis-addrs" exact:"" placeholder:"ADDR" help:"Redis servers, host:port or redis:// URLs: one for redis, five independent ones for redlock."`
	MemcachedAddr    string   `name:"memcached-addr" exact:"" placeholder:"ADDR" help:"memcached server, host:port."`
	ZooKeeperServers []string `name:"zookeeper-servers" exact:"" placeholder:"ADDR" help:"ZooKeeper ensemble, host:port each."`
	Kubeconfig       string   `name:"kubeconfig" placeholder:"FILE" help:"How the Kubernetes API server is reached; not needed in a pod."`
	KubeServer       string   `name:"kube-server" exact:"" placeholder:"URL" help:"Kubernetes API server, in place of a kubeconfig."`
	KubeTokenFile    string   `name:"kube-token-file" placeholder:"FILE" help:"Bearer token for --kube-server."`
	KubeCA           string   `name:"kube-ca" placeholder:"FILE" help:"CA that signed --kube-server's certificate."`
	KubeNamespace    string   `name:"kube-namespace" exact:"" default:"flashsale" help:"Namespace of the locks in Kubernetes; databases need one each."`
}

// server is one kind of lock server.
type server struct {
	name string
	// check finds flags that are missing or malformed. Nil: there are none.
	check func(*Servers) error
	// address shows where it is, without secrets.
	address func(*Servers) string
}

var servers = map[strategy.Server]server{
	strategy.InEtcd:       {"etcd", (*Servers).checkEtcd, func(s *Servers) string { return joined(s.EtcdEndpoints) }},
	strategy.InZooKeeper:  {"zookeeper", (*Servers).checkZooKeeper, func(s *Servers) string { return joined(s.ZooKeeperServers) }},
	strategy.InRedis:      {"redis", (*Servers).checkRedis, func(s *Servers) string { return joined(s.RedisAddrs) }},
	strategy.InRedlock:    {"redlock", (*Servers).checkRedlock, func(s *Servers) string { return joined(s.RedisAddrs) }},
	strategy.InMemcached:  {"memcached", (*Servers).checkMemcached, func(s *Servers) string { return s.MemcachedAddr }},
	strategy.InKubernetes: {"kubernetes", (*Servers).checkKube, (*Servers).kubeAddress},
}

// of is the server that a strategy needs besides MySQL.
func (s *Servers) of(row strategy.Strategy) (server, bool) {
	found, ok := servers[row.Server]
	return found, ok
}

// joined shows servers without what a URL may hold of a password.
func joined(names []string) string {
	shown := make([]string, len(names))
	for i, name := range names {
		shown[i] = name
		if strings.Contains(name, "@") {
			shown[i] = "(an address that cannot be read)"
			if u, err := url.Parse(name); err == nil && u.Host != "" {
				shown[i] = u.Redacted()
			}
		}
	}
	return strings.Join(shown, ", ")
}

func (s *Servers) checkEtcd() error {
	if len(s.EtcdEndpoints) == 0 {
		return errors.New("--etcd-endpoints is missing")
	}
	for i, endpoint := range s.EtcdEndpoints {
		if strings.Contains(endpoint, "://") {
			if u, err := url.Parse(endpoint); err != nil || u.Host == "" {
				return fmt.Errorf("--etcd-endpoints: the %s is no URL of a server", ordinal(i)) // it may hold a password
			}
		}
	}
	return nil
}

// ordinal names the server at i of a list: its text may hold a secret.
func ordinal(i int) string { return humanize.Ordinal(i + 1) }

// checkAddresses makes sure that a flag names servers as host:port.
func checkAddresses(flag string, addrs ...string) error {
	for _, addr := range addrs {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return fmt.Errorf("%s: %q is not of the form host:port", flag, addr)
		}
	}
	return nil
}

// Flags are the flags that name these servers to a command.
func (s *Servers) Flags() []string {
	var flags []string
	fields := reflect.ValueOf(s).Elem()
	for i := range fields.NumField() {
		name := fields.Type().Field(i).Tag.Get("name")
		switch value := fields.Field(i).Interface().(type) {
		case string:
			if value != "" {
				flags = append(flags, "--"+name+"="+value)
			}
		case []string:
			if len(value) > 0 {
				flags = append(flags, "--"+name+"="+strings.Join(value, ","))
			}
		}
	}
	return flags
}
