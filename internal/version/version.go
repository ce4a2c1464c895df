// Package version identifies the build of a program. It reads what the go command
// records in programs (see go version -m). A build without Git sets it by the linker:
// -ldflags "-X flashsale/internal/version.release=v1.2.3".
package version

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"
)

// The Dockerfile sets these by the linker, because it builds without Git. epoch is the
// commit's time in seconds since 1970.
var release, commit, epoch string

// Release returns a tag like v0.1.0, a commit's pseudo-version, or "dev" if the build
// has neither.
func Release() string {
	stamped := ""
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "(devel)" {
		stamped = info.Main.Version
	}
	return cmp.Or(release, stamped, "dev")
}

// Line describes the build in one line, for people.
func Line() string {
	date := ""
	if seconds, err := strconv.ParseInt(epoch, 10, 64); err == nil && seconds > 0 {
		date = time.Unix(seconds, 0).UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("flashsale %s, commit %s, %s, %s %s/%s", Release(), cmp.Or(commit, setting("vcs.revision"), "unknown"),
		cmp.Or(date, setting("vcs.time"), "date unknown"), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// setting returns what the go command recorded under that key, or "".
func setting(key string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}
