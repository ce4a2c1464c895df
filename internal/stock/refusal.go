package stock

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"

	"github.com/go-sql-driver/mysql"
)

// serverAdvice says what to do about errors by which a server refuses every
// connection, however often the client tries.
var serverAdvice = map[uint16]string{
	1044: "the account has no rights on that database: GRANT SELECT, INSERT, UPDATE ON database.* TO it, or correct the name in --mysql-dsn",
	1045: "check the user and password in --mysql-dsn, the hosts that the account may connect from, and whether it needs TLS (--mysql-ca, --mysql-cert)",
	1049: "CREATE DATABASE, or correct the name in --mysql-dsn",
	1130: "create an account that may connect from this host: CREATE USER 'name'@'host'",
	1251: "give the account caching_sha2_password, or mysql_native_password on MariaDB",
	1524: "the account's plugin is not loaded: load it, or give the account caching_sha2_password",
	1698: "the account can only log in through the server's socket: give it a password",
	1820: "the account's password has expired: set a new one",
	1862: "the account's password has expired: set a new one",
	2059: "give the account caching_sha2_password, or mysql_native_password on MariaDB",
	3118: "the account is locked: ALTER USER ... ACCOUNT UNLOCK",
	3159: "the server requires TLS: set --mysql-ca, or tls=true in --mysql-dsn",
	4151: "the account is locked: ALTER USER ... ACCOUNT UNLOCK", // MariaDB's
}

// driverAdvice is the same for errors of the driver.
var driverAdvice = map[error]string{
	mysql.ErrNoTLS:             "the server has no TLS: give it a certificate, or remove --mysql-ca, --mysql-cert and tls from the flags and --mysql-dsn",
	mysql.ErrUnknownPlugin:     serverAdvice[2059],
	mysql.ErrOldPassword:       serverAdvice[2059],
	mysql.ErrCleartextPassword: serverAdvice[2059],
	mysql.ErrNativePassword:    "give the account caching_sha2_password, or remove allowNativePasswords from --mysql-dsn",
	mysql.ErrOldProtocol:       "the server's protocol is too old or not MySQL's: correct --mysql-dsn",
}

// Refused adds advice to a connection error that trying again cannot solve. It
// returns nil for other errors.
func Refused(err error) error {
	if todo := Advice(err); todo != "" {
		return fmt.Errorf("%w; %s", err, todo)
	}
	return nil
}

// Advice says what to do about an error that is Refused, else "".
func Advice(err error) string {
	todo := serverAdvice[serverError(err)]
	for found, advice := range driverAdvice {
		if errors.Is(err, found) {
			todo = advice
		}
	}
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok && e.Number == errLimit && perHour.MatchString(e.Message) {
		todo = "the account has limits per hour: ALTER USER ... WITH MAX_CONNECTIONS_PER_HOUR 0 MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0"
	}
	if isUnknownHost(err) {
		todo = "correct the host in --mysql-dsn"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		todo = "set --mysql-ca to the CA of the server's certificate, and the host in --mysql-dsn to the certificate's host"
	}
	return todo
}

// errLimit is for all limits of an account. The limit of concurrent connections ends
// when one of them closes; limits per hour, which have these names, last longer than
// the attempts at start.
const errLimit = 1226

var perHour = regexp.MustCompile(`_per_hour|max_questions|max_updates`)

// isUnknownHost reports whether no host name of the DSN exists. If one exists, its
// server may come back.
func isUnknownHost(err error) bool {
	if all, ok := errors.AsType[interface {
		error
		Unwrap() []error
	}](err); ok {
		return !slices.ContainsFunc(all.Unwrap(), func(one error) bool { return !isUnknownHost(one) })
	}
	unknown, ok := errors.AsType[*net.DNSError](err)
	return ok && unknown.IsNotFound
}
