// Command checklog says which statements of a MariaDB's general log MySQL 8 would
// refuse. It is a program of its own because of what the parsers bring with them:
// seconds of linking, flags, and a goroutine that would look like a test's leak.
package main

import (
	"fmt"
	"os"

	"flashsale/internal/sandbox/mysql8"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: checklog FILE")
		os.Exit(2)
	}
	if err := mysql8.CheckLog(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
