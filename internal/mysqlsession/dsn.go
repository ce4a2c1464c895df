package mysqlsession

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

// LeastPacket is the least max_allowed_packet of the server, in bytes. The largest packet
// is a batch of orders with the longest customers and keys, of 3 MiB.
const LeastPacket = 4 << 20

// separator separates the hosts of a DSN. The driver does not know it.
const separator = ","

const form = "malformed DSN (expected user:password@tcp(host:port)/database)"

// Parse reads a DSN of github.com/go-sql-driver/mysql. Its address may have several hosts:
// tcp(host:port,host:port). It rejects parameters that would break the service's
// statements, and sets those that the service chooses.
func Parse(dsn string) (*mysql.Config, error) {
	cfg, err := ParseServer(dsn)
	if err == nil && cfg.DBName == "" {
		return nil, errors.New(form + ": it names no database")
	}
	return cfg, err
}

// ParseServer is Parse for a DSN that need not name a database.
func ParseServer(dsn string) (*mysql.Config, error) {
	if err := checkParameters(dsn); err != nil {
		return nil, err
	}
	first, hosts, err := splitHosts(dsn)
	if err != nil {
		return nil, err
	}
	cfg, err := mysql.ParseDSN(first)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", form, err)
	}
	if hosts != nil {
		cfg.Addr = strings.Join(hosts, separator)
	}
	if err := check(cfg); err != nil {
		return nil, err
	}
	if err := checkPorts(cfg); err != nil {
		return nil, err
	}
	cfg.ParseTime, cfg.Loc = true, time.UTC
	// Without interpolation, each statement costs a round trip to prepare it.
	cfg.InterpolateParams, cfg.MultiStatements = true, false
	cfg.RejectReadOnly = false      // conn closes connections to a read-only server
	cfg.Logger = &mysql.NopLogger{} // each call returns its error
	return cfg, nil
}

// checkParameters examines parameters that the driver hides or panics at. As in the driver,
// they begin at the first question mark after the last slash.
func checkParameters(dsn string) error {
	_, parameters, _ := strings.Cut(dsn[strings.LastIndexByte(dsn, '/')+1:], "?")
	for parameter := range strings.SplitSeq(parameters, "&") {
		name, value, given := strings.Cut(parameter, "=")
		switch {
		case !given: // the driver ignores it
		case name == "charset" && !strings.EqualFold(value, "utf8mb4"):
			return fmt.Errorf("charset=%s is not supported; use utf8mb4", value)
		case name == "timeTruncate": // orders would expire early
			return fmt.Errorf("timeTruncate=%s is not supported; remove it", value)
		case name == "strict":
			return errors.New("strict is not supported, the service sets its own sql_mode; remove it")
		}
	}
	return nil
}

// splitHosts returns the hosts of a DSN, and the DSN with the first host only. hosts is nil
// if there are not several.
func splitHosts(dsn string) (first string, hosts []string, err error) {
	// As in the driver, because a password may contain any of these characters.
	slash := strings.LastIndexByte(dsn, '/')
	if slash < 0 {
		return dsn, nil, nil
	}
	at := strings.LastIndexByte(dsn[:slash], '@') + 1
	network, list, ok := strings.Cut(dsn[at:slash], "(")
	list, closed := strings.CutSuffix(list, ")")
	if !ok || !closed || !strings.HasPrefix(network, "tcp") || !strings.Contains(list, separator) {
		return dsn, nil, nil
	}
	for host := range strings.SplitSeq(list, separator) {
		host = strings.TrimSpace(host)
		if host == "" {
			return "", nil, fmt.Errorf("%s has an empty host; name each as host:port", list)
		}
		if strings.ContainsAny(host, "(); ") {
			return "", nil, fmt.Errorf("%q is not a list of hosts; write tcp(host:port,host:port)", list)
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), "3306")
		}
		hosts = append(hosts, host)
	}
	return dsn[:at] + network + "(" + hosts[0] + ")" + dsn[slash:], hosts, nil
}

func checkPorts(cfg *mysql.Config) error {
	if !strings.HasPrefix(cfg.Net, "tcp") {
		return nil
	}
	for addr := range strings.SplitSeq(cfg.Addr, separator) {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			continue // the driver reports it when it connects
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("%s: %q is not a port; use a number from 1 to 65535", addr, port)
		}
	}
	return nil
}

func check(cfg *mysql.Config) error {
	switch {
	case cfg.Collation != "":
		return fmt.Errorf("collation=%s is not supported, the service sets its own; remove it", cfg.Collation)
	case cfg.ClientFoundRows: // an UPDATE that changes nothing would count as a change
		return errors.New("clientFoundRows=true is not supported, the service counts the rows that a statement changed; remove it")
	case cfg.ColumnsWithAlias: // gorm would not find its columns
		return errors.New("columnsWithAlias=true is not supported; remove it")
	case cfg.AllowFallbackToPlaintext && cfg.TLSConfig != "preferred": // preferred sets it
		return errors.New("allowFallbackToPlaintext=true is not supported, an attacker on the network could turn TLS off; remove it")
	case cfg.ReadTimeout != 0 || cfg.WriteTimeout != 0:
		// The outcome of a slower COMMIT would be unknown, and a wait for a lock in MySQL
		// would break. Each call has its own deadline.
		return errors.New("readTimeout and writeTimeout are not supported, the service sets its own limits; remove them")
	case !cfg.CheckConnLiveness:
		// After a restart of the server, each connection of the pool would fail a
		// transaction with an unknown outcome.
		return errors.New("checkConnLiveness=false is not supported; remove it")
	case cfg.MaxAllowedPacket != 0 && cfg.MaxAllowedPacket < LeastPacket: // 0 asks the server
		return fmt.Errorf("maxAllowedPacket=%d is too small, at least %d is needed; remove it", cfg.MaxAllowedPacket, LeastPacket)
	case len(cfg.Params) > 0:
		// No values: if a slash is missing, they may contain a part of the password.
		names, verb, them := slices.Sorted(maps.Keys(cfg.Params)), "is", "it"
		if len(names) > 1 {
			verb, them = "are", "them"
		}
		return fmt.Errorf("%s %s not supported, the service sets its session variables itself; remove %s", strings.Join(names, ", "), verb, them)
	}
	return nil
}
