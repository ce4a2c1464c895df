package sandbox

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// MySQLVar and EtcdVar are the environment variables that name servers which run
// already, for tests on machines where the programs of servers cannot be installed:
// a DSN of an account that may do everything, and a client URL.
const (
	MySQLVar = "FLASHSALE_TEST_MYSQL_DSN"
	EtcdVar  = "FLASHSALE_TEST_ETCD"
)

// StartShared is Start, but uses the servers that MySQLVar and EtcdVar name. Others use
// them at the same time: methods that stop, pause or restart such a server panic, and
// its settings must stay as they are. Stop drops the databases that the stack created.
func StartShared(ctx context.Context, cfg Config) (*Stack, error) {
	dsn, endpoint := os.Getenv(MySQLVar), os.Getenv(EtcdVar)
	var shared Stack
	if cfg.MySQL && dsn != "" {
		m, err := sharedMySQL(ctx, dsn)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", MySQLVar, err)
		}
		shared.MySQL, cfg.MySQL = m, false
	}
	if cfg.EtcdNodes == 1 && endpoint != "" {
		shared.Etcd = []*Etcd{{Process: sharedProcess(EtcdVar), Name: "etcd-1", Endpoint: endpoint}}
		cfg.EtcdNodes = 0
	}
	own, err := Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if shared.MySQL != nil {
		own.MySQL = shared.MySQL
	}
	if shared.Etcd != nil {
		own.Etcd = shared.Etcd
	}
	return own, nil
}

func sharedMySQL(ctx context.Context, dsn string) (*MySQL, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	if cfg.Net != "tcp" {
		return nil, fmt.Errorf("must have the form user:password@tcp(host:port)/")
	}
	m := &MySQL{Process: sharedProcess(MySQLVar), Product: RealMySQL, program: &databaseProgram{name: MySQLVar}, user: cfg.User, password: cfg.Passwd, addr: cfg.Addr}
	var version string
	if err := m.ask(ctx, "SELECT @@version", &version); err != nil {
		return nil, err
	}
	m.Version = productVersion(version)
	if strings.HasPrefix(m.Version, "MariaDB") {
		m.Product = MariaDB
	}
	return m, nil
}

// sharedProcess stands for a server that this process did not start.
func sharedProcess(name string) *Process {
	return &Process{cfg: ProcessConfig{Name: "the server of " + name}}
}

// Shared reports whether the server was started by another process.
func (p *Process) Shared() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.child == nil
}

// dropCreated drops the databases that a shared server must not keep.
func (m *MySQL) dropCreated() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	for _, quoted := range m.created {
		_ = m.exec(ctx, "DROP DATABASE IF EXISTS "+quoted) // the next run drops what is left
	}
}
