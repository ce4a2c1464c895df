package mysql8

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// CheckLog is Check for every statement in a server's general log, each shape once.
func CheckLog(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	seen := map[string]bool{}
	var errs []error
	err = eachStatement(file, func(statement string) {
		shape := shapeOf(statement)
		if seen[shape] {
			return
		}
		seen[shape] = true
		if err := Check(statement); err != nil {
			errs = append(errs, err)
		}
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return errors.Join(errs...)
}

// entry begins what the log has of one command: the time, unless it is the line
// before's, the connection and the command.
//
//	261121 17:30:00	     5 Query	SELECT 1
//			     5 Query	SELECT 2
var entry = regexp.MustCompile(`^(?:\d{6}\s+\d{1,2}:\d\d:\d\d)?\t+\s*\d+ ([A-Z][A-Za-z ]*?)(?:\t|$)`)

// started begins what a server writes each time that it starts: two more lines,
// up to the next entry.
var started = regexp.MustCompile(`^/\S+, Version: .* started with:$`)

// eachStatement calls f with each statement of a general log. What the server did
// not write to its end, because it was killed, is left out.
func eachStatement(log io.Reader, f func(statement string)) error {
	var statement strings.Builder
	sent := false // the entry at hand is a statement
	lines := bufio.NewReader(log)
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			if line == "" && sent {
				f(strings.TrimSuffix(statement.String(), "\n"))
			}
			return nil
		}
		if err != nil {
			return err
		}
		begin := entry.FindStringSubmatchIndex(line)
		if begin != nil || started.MatchString(strings.TrimSpace(line)) {
			if sent {
				f(strings.TrimSuffix(statement.String(), "\n"))
			}
			sent = false
			statement.Reset()
		}
		if begin != nil {
			command := line[begin[2]:begin[3]]
			// What is prepared is logged again, with its arguments, when it is run.
			sent = command == "Query" || command == "Execute"
			line = line[begin[1]:]
		}
		if sent {
			statement.WriteString(line)
		}
	}
}
