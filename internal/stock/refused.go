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

// refusals say what to do about the errors of servers that have answered, and will
// not let us in however often they are asked.
var refusals = map[uint16]string{
	1044: "the account has no rights on that database: GRANT ALL ON database.* TO it, or mend the name in --mysql-dsn",
	1045: "check the user and the password in --mysql-dsn, from which hosts the account may come, and whether it needs TLS (--mysql-ca, --mysql-cert)",
	1049: "CREATE DATABASE, or mend the name in --mysql-dsn",
	1130: "make an account that may come from this host: CREATE USER 'name'@'host'",
	1251: "give the account caching_sha2_password, or mysql_native_password on MariaDB",
	1524: "the account's plugin is not loaded: load it, or give the account caching_sha2_password",
	1698: "the account logs in by its socket alone: give it a password",
	1820: "the account's password has expired: set a new one",
	1862: "the account's password has expired: set a new one",
	2059: "give the account caching_sha2_password, or mysql_native_password on MariaDB",
	3118: "the account is locked: ALTER USER ... ACCOUNT UNLOCK",
	3159: "the server wants TLS: --mysql-ca, or tls=true in --mysql-dsn",
	4151: "the account is locked: ALTER USER ... ACCOUNT UNLOCK", // MariaDB's
}

// driverRefusals are those that the driver finds.
var driverRefusals = map[error]string{
	mysql.ErrNoTLS:             "the server has no TLS: give it a certificate, or remove --mysql-ca, --mysql-cert and tls from the flags and --mysql-dsn",
	mysql.ErrUnknownPlugin:     refusals[2059],
	mysql.ErrOldPassword:       refusals[2059],
	mysql.ErrCleartextPassword: refusals[2059],
	mysql.ErrNativePassword:    "give the account caching_sha2_password, or remove allowNativePasswords from --mysql-dsn",
	mysql.ErrOldProtocol:       "what answers is no MySQL of today: mend --mysql-dsn",
}

// Refused is an error of connecting with what to do about it, or nil where the server
// may let us in if it is only asked again.
func Refused(err error) error {
	if todo := Advice(err); todo != "" {
		return fmt.Errorf("%w; %s", err, todo)
	}
	return nil
}

// Advice is what to do about an error that is Refused, else "".
func Advice(err error) string {
	todo := refusals[serverError(err)]
	for found, advice := range driverRefusals {
		if errors.Is(err, found) {
			todo = advice
		}
	}
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok && e.Number == errLimit && perHour.MatchString(e.Message) {
		todo = "the account has limits per hour: ALTER USER ... WITH MAX_CONNECTIONS_PER_HOUR 0 MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0"
	}
	if isUnknownHost(err) {
		todo = "mend the host in --mysql-dsn"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		todo = "name the CA of the server's certificate in --mysql-ca, and the host that it is for in --mysql-dsn"
	}
	return todo
}

// errLimit is of the limits of an account. That of its connections is over when one
// of them ends; those of an hour, whose names these are, outlast every start.
const errLimit = 1226

var perHour = regexp.MustCompile(`_per_hour|max_questions|max_updates`)

// isUnknownHost reports whether no host has the name of one that exists. Of several,
// one that is only down may come back.
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
