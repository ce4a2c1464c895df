package guard

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"flashsale/internal/strategy"
)

// Servers are the addresses of everything that a strategy may lock in. Only the
// ones that the chosen strategy needs are looked at. They are flags of a command.
type Servers struct {
	EtcdEndpoints []string `name:"etcd-endpoints" placeholder:"URL" help:"etcd's client URLs; needed by strategies that lock in etcd."`
	EtcdUsername  string   `name:"etcd-username" help:"etcd user."`
	EtcdPassword  string   `name:"etcd-password" help:"etcd password."`
	EtcdCA        string   `name:"etcd-ca" placeholder:"FILE" help:"CA that signed etcd's certificate."`
	EtcdCert      string   `name:"etcd-cert" placeholder:"FILE" help:"Client certificate for etcd."`
	EtcdKey       string   `name:"etcd-key" placeholder:"FILE" help:"Key of the client certificate."`
	Prefix        string   `name:"etcd-prefix" default:"flashsale/" help:"Prefix of all keys, in etcd and in every other lock server, before the database's name; databases of one name need one each."`
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
	strategy.InEtcd: {"etcd", (*Servers).checkEtcd, func(s *Servers) string { return joined(s.EtcdEndpoints) }},
}

// of is the server that a strategy needs besides MySQL.
func (s *Servers) of(row strategy.Strategy) (server, bool) {
	found, ok := servers[row.Server]
	return found, ok
}

func joined(names []string) string { return strings.Join(names, ", ") }

func (s *Servers) checkEtcd() error {
	if len(s.EtcdEndpoints) == 0 {
		return errors.New("--etcd-endpoints is missing")
	}
	for _, endpoint := range s.EtcdEndpoints {
		if strings.Contains(endpoint, "://") {
			if u, err := url.Parse(endpoint); err != nil || u.Host == "" {
				return fmt.Errorf("--etcd-endpoints: %q is no URL of a server", endpoint)
			}
		}
	}
	return nil
}

// checkAddresses makes sure that a flag names servers as host:port.
func checkAddresses(flag string, addrs ...string) error {
	for _, addr := range addrs {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return fmt.Errorf("%s: %q is not of the form host:port", flag, addr)
		}
	}
	return nil
}
