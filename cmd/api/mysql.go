package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"go.opentelemetry.io/otel/trace"

	"flashsale/internal/backend"
	"flashsale/internal/doctor"
	"flashsale/internal/mysqlsession"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// mysqlFlags name the database.
type mysqlFlags struct {
	DSN  string `name:"mysql-dsn" exact:"" required:"" placeholder:"DSN" help:"MySQL or MariaDB: user:password@tcp(host:port)/database. Of several hosts, tcp(host:port,host:port), the one that accepts writes is used. The DSN contains a password: set it by FLASHSALE_MYSQL_DSN or --config rather than here."`
	Pool int    `name:"mysql-pool" default:"32" help:"Maximum number of connections to MySQL, for a replica's orders or for another command; at least 2."`
	mysqlTLSFlags
}

// open opens the pool, traced if provider is not nil. It adds the TLS flags to f.DSN.
func (f *mysqlFlags) open(provider trace.TracerProvider) (db *stock.DB, err error) {
	// A migration holds one connection for its lock and needs another.
	if f.Pool < 2 || f.Pool > maxConnections {
		return nil, fmt.Errorf("--mysql-pool is %d, must be from 2 to %d", f.Pool, maxConnections)
	}
	if f.DSN, err = f.secured(f.DSN); err != nil {
		return nil, err
	}
	db, err = stock.OpenTraced(f.DSN, f.Pool, provider)
	if err != nil {
		return nil, fmt.Errorf("--mysql-dsn: %w", err)
	}
	return db, nil
}

// lockPool is the number of connections for locks in MySQL: one for each SKU that is
// locked or waited for, beside the connections that write orders.
func (f *mysqlFlags) lockPool() int { return max(2, f.Pool/4) }

// besidePool is how many connections a replica may open beside --mysql-pool.
func (f *mysqlFlags) besidePool(row strategy.Strategy) int {
	beside := f.lockPool()
	if row.Write == strategy.Batch {
		beside = mirrorPool
	}
	return beside + backend.LeaseConnections + replicaLockPool + stock.BlockerConnections
}

// ping tries to reach the server. Its error is final if waiting cannot help.
func (f *mysqlFlags) ping(ctx context.Context, db *stock.DB) error {
	err := db.Ping(ctx)
	if refused := stock.Refused(err); refused != nil {
		return final{fmt.Errorf("%s: %w", f.address(), refused)}
	}
	return err
}

// address names the server, without the DSN's secrets.
func (f *mysqlFlags) address() string {
	cfg, err := mysqlsession.Parse(f.DSN)
	if err != nil {
		return "MySQL"
	}
	return "MySQL at " + cfg.Addr
}

// capacityFlags bound the connections of all replicas together.
type capacityFlags struct {
	// MaxReplicas is only compared with the limits of the server and the account.
	MaxReplicas int `default:"4" placeholder:"N" help:"Maximum number of replicas that share the database (${default}). Include those that a rolling update adds, and those that are still ending: for 3 replicas, 4 if each ends before the next one is replaced, and 6 on Kubernetes, which does not wait for that. Each replica needs --mysql-pool connections and a few more. A replica does not start if MySQL's max_connections or the account's MAX_USER_CONNECTIONS is too small for all of them."`
}

// maxConnections is the largest max_connections that a server accepts.
const maxConnections = 100_000

func (f *capacityFlags) check() error {
	if f.MaxReplicas < 1 || f.MaxReplicas > maxConnections {
		return fmt.Errorf("--max-replicas is %d, must be from 1 to %d", f.MaxReplicas, maxConnections)
	}
	return nil
}

// needs returns the connections of all replicas.
func (f *capacityFlags) needs(row strategy.Strategy, mysql *mysqlFlags) doctor.Needs {
	beside := mysql.besidePool(row)
	return doctor.Needs{
		Connections: f.MaxReplicas * (mysql.Pool + beside),
		Count:       fmt.Sprintf("--max-replicas %d (including those that an update adds or that are still ending) x (--mysql-pool %d + %d)", f.MaxReplicas, mysql.Pool, beside),
	}
}

// commandTimeout bounds a command that reads MySQL: auditing a large database takes
// minutes.
const commandTimeout = 10 * time.Minute

// withDB calls f with the database, once the server answers.
func (f *mysqlFlags) withDB(ctx context.Context, do func(context.Context, *stock.DB) error) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	db, err := f.open(nil)
	if err != nil {
		return err
	}
	err = f.pingToRead(ctx, db)
	if err == nil {
		err = do(ctx, db)
	}
	return errors.Join(err, db.Close())
}

// pingToRead names the server in its error. A read-only server is fine.
func (f *mysqlFlags) pingToRead(ctx context.Context, db *stock.DB) error {
	ctx, cancel := context.WithTimeout(ctx, awaitAttempt)
	defer cancel()
	err := db.Ping(ctx)
	if stock.IsReadOnly(err) {
		_, err = db.Now(ctx)
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", f.address(), cmp.Or(stock.Refused(err), err))
}

// withSchema is withDB for a database that has the schema.
func (f *mysqlFlags) withSchema(ctx context.Context, do func(context.Context, *stock.DB) error) error {
	return f.withDB(ctx, func(ctx context.Context, db *stock.DB) error {
		if err := db.HasSchema(ctx); err != nil {
			return fmt.Errorf("%s, database %s: %w", f.address(), db.Name, err)
		}
		return do(ctx, db)
	})
}

// mysqlTLSFlags configure TLS to MySQL.
type mysqlTLSFlags struct {
	CA   string `name:"mysql-ca" placeholder:"FILE" help:"CA that signed MySQL's certificate. Connections to MySQL then always use TLS, and its certificate must be valid for the DSN's host name. (To trust the system's CAs, use ?tls=true in the DSN.)"`
	Cert string `name:"mysql-cert" placeholder:"FILE" help:"Client certificate for MySQL, if it requires one. Needs --mysql-ca."`
	Key  string `name:"mysql-key" placeholder:"FILE" help:"Key of --mysql-cert."`
}

// ownTLS is the prefix of the names that secured registers.
const ownTLS = "flashsale-"

// secured adds the flags to the DSN. The driver only accepts registered TLS settings,
// by name.
func (f *mysqlTLSFlags) secured(dsn string) (string, error) {
	cfg, err := mysqlsession.Parse(dsn)
	if err != nil {
		if strings.Contains(err.Error(), "unknown config name") {
			return "", errors.New("--mysql-dsn: tls must be true; for a CA of your own, use --mysql-ca")
		}
		return dsn, nil // stock.Open reports the error
	}
	switch {
	case cfg.TLSConfig == "skip-verify" || cfg.TLSConfig == "preferred":
		return "", fmt.Errorf("--mysql-dsn: tls=%s does not verify the server: use tls=true or --mysql-ca", cfg.TLSConfig)
	case f.CA == "" && f.Cert == "" && f.Key == "":
		return dsn, nil
	case cfg.TLSConfig != "" && !strings.HasPrefix(cfg.TLSConfig, ownTLS):
		return "", errors.New("--mysql-ca and the DSN's tls are mutually exclusive")
	case f.CA == "" || (f.Cert == "") != (f.Key == ""):
		return "", errors.New("--mysql-cert and --mysql-key must be given together, and with --mysql-ca")
	}
	secure, err := f.config()
	if err != nil {
		return "", err
	}
	name := sha256.Sum256([]byte(f.CA + "\x00" + f.Cert + "\x00" + f.Key))
	cfg.TLSConfig = ownTLS + hex.EncodeToString(name[:8])
	if err := mysql.RegisterTLSConfig(cfg.TLSConfig, secure); err != nil {
		return "", fmt.Errorf("--mysql-ca: %w", err)
	}
	return cfg.FormatDSN(), nil
}

func (f *mysqlTLSFlags) config() (*tls.Config, error) {
	text, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("--mysql-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("--mysql-ca: %s contains no PEM certificate", f.CA)
	}
	// The driver sets ServerName to the DSN's host.
	secure := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	if f.Cert == "" {
		return secure, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		return &pair, err
	}
	if _, err := load(); err != nil {
		return nil, fmt.Errorf("--mysql-cert, --mysql-key: %w", err)
	}
	// Loaded for each connection, since the files may be rotated.
	secure.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return secure, nil
}
