package zklock

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

const idLength = 36

// pathOf returns the path of a lock. It escapes what a path must not contain,
// including the names "." and "..".
func (l *Locker) pathOf(name string) string {
	if strings.Trim(name, ".") == "" {
		return l.cfg.Prefix + "/" + strings.ReplaceAll(name, ".", "%2E")
	}
	return l.cfg.Prefix + "/" + url.PathEscape(name)
}

func nameOf(last string) (string, error) { return url.PathUnescape(last) }

// inOrder sorts the nodes of a queue by sequence. It drops foreign nodes.
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
		// The server's 32-bit counter wraps to negative numbers. The difference is
		// right for any queue shorter than 2^31.
		return int(i - j)
	})
	return queue
}

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
