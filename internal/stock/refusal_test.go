package stock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/go-sql-driver/mysql"
)

func TestRefusedErrorsHaveAdvice(t *testing.T) {
	t.Parallel()
	number := func(n uint16) error {
		return fmt.Errorf("session settings: %w", &mysql.MySQLError{Number: n, Message: "m"})
	}
	limit := func(resource string) error {
		return &mysql.MySQLError{Number: 1226, Message: "User 'shop' has exceeded the '" + resource + "' resource (current value: 3)"}
	}
	nowhere := fmt.Errorf("db2: %w", &net.DNSError{Err: "no such host", Name: "db2", IsNotFound: true})
	for want, errs := range map[string][]error{
		"CREATE USER":           {number(1130)},
		"GRANT SELECT, INSERT":  {number(1044)},
		"CREATE DATABASE":       {number(1049)},
		"needs TLS":             {number(1045)},
		"PER_HOUR 0":            {limit("max_connections_per_hour"), limit("max_updates")},
		"caching_sha2_password": {number(1524), number(2059), mysql.ErrUnknownPlugin},
		"UNLOCK":                {number(3118), number(4151)},
		"--mysql-ca":            {number(3159), mysql.ErrNoTLS},
		"correct the host":      {nowhere, errors.Join(nowhere, nowhere), &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "nowhere", IsNotFound: true}}},
	} {
		for _, err := range errs {
			if got := Refused(err); got == nil || !errors.Is(got, err) || !strings.Contains(got.Error(), want) {
				t.Errorf("%v: got %v, want %q", err, got, want)
			}
		}
	}
	// Trying again may solve these: too many connections, a limit of concurrent ones, a
	// server that starts or shuts down, a failed name lookup, one of several hosts down.
	for _, err := range []error{
		nil, number(1040), number(1203), limit("max_user_connections"), errors.Join(nowhere, syscall.ECONNREFUSED), number(1290), number(1053), syscall.ECONNREFUSED, context.DeadlineExceeded, mysql.ErrInvalidConn,
		&net.OpError{Op: "dial", Err: &net.DNSError{Err: "server misbehaving", Name: "db", IsTemporary: true}},
	} {
		if got := Refused(err); got != nil {
			t.Errorf("%v: got %v, want nil, so that it is tried again", err, got)
		}
	}
}
