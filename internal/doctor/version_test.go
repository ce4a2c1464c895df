package doctor

import (
	"strings"
	"testing"
)

// The tests have no old servers, so this uses the texts that they report.
func TestUnsupportedVersionsAreFaults(t *testing.T) {
	for _, test := range []struct {
		version, comment string
		severity         Severity
		found            string
	}{
		{"10.5.29-MariaDB-0+deb11u1", "Debian 11", Fault, "MariaDB 10.5.29-MariaDB-0+deb11u1 is too old"},
		{"10.6.0-MariaDB", "", Fine, "MariaDB"},
		{"11.8.2-MariaDB-log", "mariadb.org binary distribution", Fine, "MariaDB"},
		{"10.4.12", "MariaDB Server", Fault, "MariaDB 10.4.12"},
		{"5.7.44", "MySQL Community Server (GPL)", Fault, "MySQL 5.7.44 is too old"},
		{"8.0.43-34", "Percona Server (GPL)", Fault, "MySQL 8.0.43-34"},
		{"8.0.mysql_aurora.3.08.2", "Source distribution", Fault, "too old"},
		{"8.4.0", "MySQL Community Server - GPL", Fine, "MySQL 8.4.0"},
		{"8.10.0", "", Fine, "MySQL 8.10.0"}, // not before 8.4
		{"9.7.4-2", "(Debian)", Fine, "MySQL 9.7.4-2"},
		{"8.0.11-TiDB-v8.5.1", "TiDB Server", Fault, "TiDB is neither"},
		{"8.4.6-Vitess", "Version: 22.0", Fault, "Vitess is neither"},
		{"unknown", "", Warning, `"unknown"`},
	} {
		var r Report
		r.checkDatabase(test.version, test.comment)
		if r[0].Severity != test.severity || !strings.Contains(r[0].Found, test.found) || (r[0].Do == "") != (test.severity == Fine) {
			t.Errorf("%s (%s): got %+v, want %s %q", test.version, test.comment, r[0], test.severity, test.found)
		}
	}
}

// A running server does not let the test change these settings.
func TestSettingsThatCanLoseOrdersAreWarnings(t *testing.T) {
	for _, test := range []struct {
		name, value, check string
		severity           Severity
	}{
		{"binlog_format", "STATEMENT", "binlog_format", Fault},
		{"sync_binlog", "0", "durability", Warning},
		{"innodb_doublewrite", "DETECT_ONLY", "durability", Warning},
		{"innodb_doublewrite", "OFF", "durability", Warning},
		{"innodb_flush_log_at_trx_commit", "0", "durability", Warning},
		{"innodb_flush_method", "nosync", "durability", Warning},
		{"binlog_format", "MIXED", "binlog_format", Fine},
		{"innodb_doublewrite", "1", "durability", Fine},
	} {
		m := mysqlServer{variables: map[string]string{
			"max_allowed_packet": "16777216", "log_bin": "ON", "binlog_format": "ROW", "sync_binlog": "1",
			"innodb_doublewrite": "ON", "innodb_flush_log_at_trx_commit": "1",
		}}
		m.variables[test.name] = test.value
		if err := m.checkSettings(t.Context()); err != nil {
			t.Fatal(err)
		}
		found := false
		for _, f := range m.report {
			found = found || f.Check == test.check && f.Severity == test.severity && (f.Severity == Fine || strings.Contains(f.String(), test.name))
			if f.Severity != Fine && f.Check != test.check {
				t.Errorf("%s=%s: %+v", test.name, test.value, f)
			}
		}
		if !found {
			t.Errorf("%s=%s: got %+v, want %s %s", test.name, test.value, m.report, test.severity, test.check)
		}
	}
}
