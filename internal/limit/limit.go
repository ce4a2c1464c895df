// Package limit counts the requests of callers, and says who has had too many.
//
// A caller has a bucket of tokens that fills again evenly, so that the whole
// limit may come at once and no window's end is worth waiting for. Memory is
// bounded, however many callers there are. Who a caller is, and what a refused
// one is told, is left to others.
package limit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Limit is how many requests one caller may make in a window of time. The zero
// value sets no limit.
type Limit struct {
	Requests int
	Window   time.Duration
}

const (
	// maxRequests is far above what one caller can send.
	maxRequests = 1_000_000
	maxWindow   = 24 * time.Hour
)

var errForm = errors.New("expected requests and a window like 100/10s, or 0 for no limit")

// Parse reads a limit like "100/10s"; "0" is none.
func Parse(text string) (Limit, error) {
	if text == "0" {
		return Limit{}, nil
	}
	before, after, _ := strings.Cut(text, "/")
	requests, err := strconv.Atoi(before)
	window, windowErr := time.ParseDuration(after)
	switch {
	case err != nil || windowErr != nil:
		return Limit{}, fmt.Errorf("%q: %w", text, errForm)
	case requests < 1 || requests > maxRequests:
		return Limit{}, fmt.Errorf("%q: requests must be from 1 to %d", text, maxRequests)
	case window < time.Second || window > maxWindow || window%time.Second != 0:
		return Limit{}, fmt.Errorf("%q: the window must be whole seconds, from 1s to %s", text, maxWindow)
	}
	return Limit{requests, window}, nil
}

// UnmarshalText is Parse, for a flag.
func (l *Limit) UnmarshalText(text []byte) (err error) {
	*l, err = Parse(string(text))
	return err
}

// String is the limit as Parse reads it.
func (l Limit) String() string {
	if l.Requests == 0 {
		return "0"
	}
	return fmt.Sprintf("%d/%s", l.Requests, l.Window)
}
