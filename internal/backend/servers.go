package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"strings"

	"flashsale/internal/strategy"
)

// Servers has the addresses of all lock servers, as flags of a command. A strategy uses
// only those of its own server.
type Servers struct {
	EtcdEndpoints []string `name:"etcd-endpoints" exact:"" placeholder:"URL" help:"Client URLs of etcd. Required by strategies that use etcd."`
	EtcdUsername  string   `name:"etcd-username" exact:"" help:"etcd user, if etcd requires one."`
	EtcdPassword  string   `name:"etcd-password" exact:"" help:"Password of that user. Prefer FLASHSALE_ETCD_PASSWORD or --config to this flag."`
	EtcdCA        string   `name:"etcd-ca" placeholder:"FILE" help:"CA of etcd's certificate."`
	EtcdCert      string   `name:"etcd-cert" placeholder:"FILE" help:"Client certificate for etcd, if etcd requires one."`
	EtcdKey       string   `name:"etcd-key" placeholder:"FILE" help:"Key of --etcd-cert."`
	Prefix        string   `name:"etcd-prefix" exact:"" default:"flashsale/" help:"Prefix of all keys, in etcd and in every other lock server. The database's name follows it. Two databases of the same name need two prefixes."`

	RedisAddrs       []string `name:"redis-addrs" exact:"" placeholder:"ADDR" help:"Redis servers, host:port or redis:// URLs: one for redis, five independent ones for redlock."`
	MemcachedAddr    string   `name:"memcached-addr" exact:"" placeholder:"ADDR" help:"memcached server, host:port."`
	ZooKeeperServers []string `name:"zookeeper-servers" exact:"" placeholder:"ADDR" help:"Servers of the ZooKeeper ensemble, host:port."`
	Kubeconfig       string   `name:"kubeconfig" placeholder:"FILE" help:"kubeconfig of the Kubernetes API server. Not needed in a pod."`
	KubeServer       string   `name:"kube-server" exact:"" placeholder:"URL" help:"Kubernetes API server, instead of a kubeconfig."`
	KubeTokenFile    string   `name:"kube-token-file" placeholder:"FILE" help:"Bearer token for --kube-server."`
	KubeCA           string   `name:"kube-ca" placeholder:"FILE" help:"CA of --kube-server's certificate."`
	KubeNamespace    string   `name:"kube-namespace" exact:"" default:"flashsale" help:"Namespace of the locks in Kubernetes. Each database needs its own."`
}

// server is one kind of lock server.
type server struct {
	name string
	// check returns an error if a flag is missing or malformed.
	check func(*Servers) error
	// address is for people and contains no secrets.
	address func(*Servers) string
	examine func(context.Context, *examination) error
}

var servers = map[strategy.Server]server{
	strategy.InEtcd:  {"etcd", (*Servers).checkEtcd, func(s *Servers) string { return redacted(s.EtcdEndpoints...) }, examineEtcd},
	strategy.InRedis: {"redis", (*Servers).checkRedis, func(s *Servers) string { return redacted(s.RedisAddrs...) }, examineRedis},
	strategy.InRedlock: {"redlock", (*Servers).checkRedlock,
		func(s *Servers) string { return redacted(s.RedisAddrs...) }, examineRedis},
	strategy.InZooKeeper: {"zookeeper", func(s *Servers) error { return checkAddresses("--zookeeper-servers", s.ZooKeeperServers...) },
		func(s *Servers) string { return redacted(s.ZooKeeperServers...) }, examineZooKeeper},
	strategy.InMemcached: {"memcached", func(s *Servers) error { return checkAddresses("--memcached-addr", s.MemcachedAddr) },
		func(s *Servers) string { return s.MemcachedAddr }, examineMemcached},
	strategy.InKubernetes: {"kubernetes", (*Servers).checkKube, (*Servers).kubeAddress, examineKubernetes},
}

// redacted joins addresses and hides the passwords of URLs.
func redacted(addresses ...string) string {
	shown := make([]string, len(addresses))
	for i, address := range addresses {
		shown[i] = address
		if strings.Contains(address, "@") {
			shown[i] = "(malformed address)"
			if u, err := url.Parse(address); err == nil && u.Host != "" {
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
				return fmt.Errorf("--etcd-endpoints: value %d is not a URL with a host", i+1) // it may contain a password
			}
		}
	}
	return nil
}

// checkAddresses returns an error unless a flag has addresses of the form host:port.
func checkAddresses(flag string, addrs ...string) error {
	if strings.Join(addrs, "") == "" {
		return errors.New(flag + " is missing")
	}
	for _, addr := range addrs {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return fmt.Errorf("%s: %q is not of the form host:port", flag, addr)
		}
	}
	return nil
}

// Flags returns the command-line flags that set these values.
func (s *Servers) Flags() []string {
	var flags []string
	for field, value := range reflect.ValueOf(s).Elem().Fields() {
		text := value.String()
		if list, ok := value.Interface().([]string); ok {
			text = strings.Join(list, ",")
		}
		if text != "" {
			flags = append(flags, "--"+field.Tag.Get("name")+"="+text)
		}
	}
	return flags
}
