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

// LeastPacket is the size, in bytes, that the server must take a packet of. The
// largest is a group of orders with the longest customers and keys, of 3 MiB.
const LeastPacket = 4 << 20

// Parse reads a DSN, in the form of github.com/go-sql-driver/mysql; its Addr may
// name several hosts, with commas between them. It refuses by name what the
// service's statements cannot work with, and sets what is the service's to choose:
// parseTime, loc, interpolateParams and multiStatements, which is off.
func Parse(dsn string) (*mysql.Config, error) {
	cfg, err := ParseServer(dsn)
	if err == nil && cfg.DBName == "" {
		return nil, errors.New(form + ": it names no database")
	}
	return cfg, err
}

const form = "malformed DSN (expected user:password@tcp(host:port)/database)"

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
	// Without interpolation each statement costs a round trip to prepare it.
	cfg.InterpolateParams, cfg.MultiStatements = true, false
	// A server that takes no writes is seen to by the connection itself.
	cfg.RejectReadOnly = false
	// Errors are returned, and logged by whoever handles them.
	cfg.Logger = &mysql.NopLogger{}
	return cfg, nil
}

// checkParameters looks for parameters that the driver does not show, or panics
// at. The last slash and the first question mark after it begin them, as there.
func checkParameters(dsn string) error {
	_, parameters, _ := strings.Cut(dsn[strings.LastIndexByte(dsn, '/')+1:], "?")
	for parameter := range strings.SplitSeq(parameters, "&") {
		name, value, given := strings.Cut(parameter, "=")
		switch {
		case !given: // the driver passes it over
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

// checkPorts finds ports that no waiting makes right.
func checkPorts(cfg *mysql.Config) error {
	if !strings.HasPrefix(cfg.Net, "tcp") {
		return nil
	}
	for addr := range strings.SplitSeq(cfg.Addr, separator) {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			continue // the driver says so as it connects
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
	case cfg.ClientFoundRows:
		// An UPDATE that changes nothing would count like one that does.
		return errors.New("clientFoundRows=true is not supported, the service counts the rows that a statement changed; remove it")
	case cfg.ColumnsWithAlias: // gorm would not find its columns
		return errors.New("columnsWithAlias=true is not supported; remove it")
	case cfg.AllowFallbackToPlaintext && cfg.TLSConfig != "preferred": // which sets it
		return errors.New("allowFallbackToPlaintext=true is not supported, anyone in between could switch TLS off; remove it")
	case cfg.ReadTimeout != 0 || cfg.WriteTimeout != 0:
		// A COMMIT that takes longer would have an unknown outcome, and a wait for a
		// lock in MySQL would break. Each call has an end of its own.
		return errors.New("readTimeout and writeTimeout are not supported, the service sets its own limits; remove them")
	case !cfg.CheckConnLiveness:
		// After a restart of the server each connection of the pool would fail one
		// transaction whose outcome nobody knew.
		return errors.New("checkConnLiveness=false is not supported; remove it")
	case cfg.MaxAllowedPacket != 0 && cfg.MaxAllowedPacket < LeastPacket: // 0 asks the server
		return fmt.Errorf("maxAllowedPacket=%d is too small, %d is needed at least; remove it", cfg.MaxAllowedPacket, LeastPacket)
	case len(cfg.Params) > 0:
		// Not the value: where a slash is missing, part of the password may come here.
		names := slices.Sorted(maps.Keys(cfg.Params))
		if len(names) > 1 {
			return fmt.Errorf("%s are not supported, the service sets its session variables itself; remove them", strings.Join(names, ", "))
		}
		return fmt.Errorf("%s is not supported, the service sets its session variables itself; remove it", names[0])
	}
	return nil
}
