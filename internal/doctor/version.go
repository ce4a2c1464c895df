package doctor

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Version is a server's release, as far as features depend on it.
type Version struct{ Major, Minor int }

var numbers = regexp.MustCompile(`^v?(\d+)\.(\d+)`)

// ParseVersion reads what servers call themselves: "8.4.3", "3.5.9",
// "10.11.14-MariaDB-0+deb12u2". It reports false where no version begins the text.
func ParseVersion(text string) (v Version, ok bool) {
	found := numbers.FindStringSubmatch(text)
	if found == nil {
		return v, false
	}
	var errMajor, errMinor error
	v.Major, errMajor = strconv.Atoi(found[1])
	v.Minor, errMinor = strconv.Atoi(found[2])
	return v, errMajor == nil && errMinor == nil
}

// Before reports whether v is an older release than w.
func (v Version) Before(w Version) bool {
	return v.Major < w.Major || v.Major == w.Major && v.Minor < w.Minor
}

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// product is a database that the service is made for.
type product struct {
	name   string
	least  Version
	reason string
}

var (
	mariaDB = product{"MariaDB", Version{10, 6}, "older ones lack SKIP LOCKED, JSON_TABLE and atomic DDL, and refuse statements of the service"}
	mySQL   = product{"MySQL", Version{8, 4}, "older ones are not maintained any more, and no test runs on them"}
)

// others speak MySQL's protocol, and are not MySQL.
var others = []string{"TiDB", "Vitess", "OceanBase", "Doris", "StarRocks"}

// checkVersion judges a server by VERSION() and @@version_comment.
func (r *Report) checkVersion(version, comment string) (isMariaDB bool) {
	const check = "version"
	both := version + " " + comment
	for _, other := range others {
		if strings.Contains(both, other) {
			r.Fault(check, fmt.Sprintf("use %s %s or later, or %s %s or later", mySQL.name, mySQL.least, mariaDB.name, mariaDB.least),
				"%s is neither MySQL nor MariaDB (%s)", other, version)
			return false
		}
	}
	p := mySQL
	if isMariaDB = strings.Contains(both, "MariaDB"); isMariaDB {
		p = mariaDB
	}
	switch v, ok := ParseVersion(version); {
	case !ok:
		r.Warn(check, fmt.Sprintf("make sure that it is %s or later", p.least), "%s of an unknown version %q", p.name, version)
	case v.Before(p.least):
		r.Fault(check, fmt.Sprintf("use %s or later: %s", p.least, p.reason), "%s %s is too old", p.name, version)
	default:
		r.Fine(check, "%s %s", p.name, version)
	}
	return isMariaDB
}
