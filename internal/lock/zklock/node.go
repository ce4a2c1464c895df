package zklock

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// idLength is of the id that begins a node's name: a UUID as text.
const idLength = 36

// pathOf is the path of a lock. A name may hold what a path may not, and must not
// be "..", which would be another.
func (l *Locker) pathOf(name string) string {
	if strings.Trim(name, ".") == "" {
		return l.cfg.Prefix + "/" + strings.ReplaceAll(name, ".", "%2E")
	}
	return l.cfg.Prefix + "/" + url.PathEscape(name)
}

// nameOf is the name of the lock at the last part of a path.
func nameOf(last string) (string, error) { return url.PathUnescape(last) }

// inOrder sorts the nodes of a queue by their sequence, and drops what is none.
func inOrder(nodes []string) []string {
	queue := nodes[:0]
	for _, node := range nodes {
		if _, ok := sequence(node); ok {
			queue = append(queue, node)
		}
	}
	slices.SortFunc(queue, func(a, b string) int {
		i, _ := sequence(a)
		j, _ := sequence(b)
		// The server counts in 32 bits, and goes on below zero after the largest
		// number. No queue is nearly as long.
		return int(i - j)
	})
	return queue
}

// sequence is the number that the server has added to a node's name.
func sequence(node string) (int32, bool) {
	if len(node) <= idLength+1 || node[idLength] != '-' {
		return 0, false
	}
	if _, err := uuid.Parse(node[:idLength]); err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(node[idLength+1:], 10, 32)
	return int32(n), err == nil
}
