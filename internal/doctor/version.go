package doctor

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Version is the part of a server's version that its features depend on.
type Version struct{ Major, Minor int }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

var numbers = regexp.MustCompile(`^v?(\d+)\.(\d+)`)

// parseVersion reads the versions that servers report: "8.4.3", "v1.30",
// "10.11.14-MariaDB-0+deb12u2".
func parseVersion(text string) (v Version, ok bool) {
	found := numbers.FindStringSubmatch(text)
	if found == nil {
		return v, false
	}
	var errMajor, errMinor error
	v.Major, errMajor = strconv.Atoi(found[1])
	v.Minor, errMinor = strconv.Atoi(found[2])
	return v, errMajor == nil && errMinor == nil
}

// CheckVersion compares the version that a server reports with the oldest supported one.
func (r *Report) CheckVersion(check, version string, least Version) {
	switch v, ok := parseVersion(version); {
	case !ok:
		r.Warn(check, fmt.Sprintf("make sure that it is %s or later", least), "version %q is not a number", version)
	case v.Major < least.Major || v.Major == least.Major && v.Minor < least.Minor:
		r.Fault(check, fmt.Sprintf("use %s or later", least), "%s is too old", version)
	default:
		r.Fine(check, "%s", version)
	}
}

// Older MariaDB servers lack SKIP LOCKED, JSON_TABLE and atomic DDL, and refuse
// statements of the service. Older MySQL servers are not maintained or tested.
var minMariaDB, minMySQL = Version{10, 6}, Version{8, 4}

// others use MySQL's protocol but are not MySQL.
var others = []string{"TiDB", "Vitess", "OceanBase", "Doris", "StarRocks"}

// checkDatabase judges a database by VERSION() and @@version_comment.
func (r *Report) checkDatabase(version, comment string) (isMariaDB bool) {
	const check = "version"
	both := version + " " + comment
	for _, other := range others {
		if strings.Contains(both, other) {
			r.Fault(check, fmt.Sprintf("use MySQL %s or later, or MariaDB %s or later", minMySQL, minMariaDB),
				"%s is neither MySQL nor MariaDB (%s)", other, version)
			return false
		}
	}
	product, least := "MySQL ", minMySQL
	if isMariaDB = strings.Contains(both, "MariaDB"); isMariaDB {
		product, least = "MariaDB ", minMariaDB
	}
	r.CheckVersion(check, version, least)
	last := &(*r)[len(*r)-1]
	last.Found = product + last.Found
	return isMariaDB
}
