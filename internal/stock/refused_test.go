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

func TestOnlyWhatNoWaitingMendsIsRefused(t *testing.T) {
	t.Parallel()
	number := func(n uint16) error {
		return fmt.Errorf("session settings: %w", &mysql.MySQLError{Number: n, Message: "m"})
	}
	for want, errs := range map[string][]error{
		"CREATE USER":           {number(1130)},
		"GRANT ALL":             {number(1044)},
		"CREATE DATABASE":       {number(1049)},
		"user and password":     {number(1045)},
		"caching_sha2_password": {number(1524), number(2059), mysql.ErrUnknownPlugin},
		"UNLOCK":                {number(3118), number(4151)},
		"--mysql-ca":            {number(3159), mysql.ErrNoTLS},
		"mend the host":         {&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "nowhere", IsNotFound: true}}},
	} {
		for _, err := range errs {
			if got := Refused(err); got == nil || !errors.Is(got, err) || !strings.Contains(got.Error(), want) {
				t.Errorf("%v: got %v, want %q", err, got, want)
			}
		}
	}
	// Too many connections, a limit of the account that others use up, a server that
	// starts, one that is ended, names that cannot be looked up now.
	for _, err := range []error{
		nil, number(1040), number(1203), number(1226), number(1290), number(1053), syscall.ECONNREFUSED, context.DeadlineExceeded, mysql.ErrInvalidConn,
		&net.OpError{Op: "dial", Err: &net.DNSError{Err: "server misbehaving", Name: "db", IsTemporary: true}},
	} {
		if got := Refused(err); got != nil {
			t.Errorf("%v: got %v, want that it is asked again", err, got)
		}
	}
}
