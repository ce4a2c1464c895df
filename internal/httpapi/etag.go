package httpapi

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// tagOf is a SKU's entity tag: its revision moves with what administrators
// change, its seq with all that is written.
func tagOf(s *stock.Stock) string { return fmt.Sprintf(`"%d-%d"`, s.Revision, s.Seq) }

// revisionOf is the revision in a tag that tagOf made. Of what a proxy has added
// to (Apache makes "1-7-gzip" of "1-7") it is none: a strong comparison is one of
// every byte.
func revisionOf(tag string) (uint64, bool) {
	first, second, _ := strings.Cut(strings.Trim(tag, `"`), "-")
	revision, err1 := strconv.ParseUint(first, 10, 64)
	seq, err2 := strconv.ParseUint(second, 10, 64)
	return revision, err1 == nil && err2 == nil && tag == tagOf(&stock.Stock{Revision: revision, Seq: seq})
}

// tagOfPage is the tag of a page of SKUs: a digest of theirs.
func tagOfPage(page []stock.Stock, next *string) string {
	digest := sha256.New()
	for i := range page {
		_, _ = fmt.Fprintln(digest, page[i].SKU, tagOf(&page[i])) // a digest takes everything
	}
	_, _ = fmt.Fprintln(digest, next != nil)
	const enough = 12 // bytes: no two pages of a service have the same by chance
	return `"` + base64.RawURLEncoding.EncodeToString(digest.Sum(nil)[:enough]) + `"`
}

// tags are the entity tags of an If-Match or If-None-Match header.
type tags struct {
	any          bool // *
	strong, weak []string
}

// readTags reads a list of RFC 9110, 8.8.3.
func readTags(header string) (list tags, ok bool) {
	if strings.TrimSpace(header) == "*" {
		return tags{any: true}, true
	}
	rest := header
	for {
		rest = strings.TrimLeft(rest, " \t,")
		if rest == "" {
			return list, len(list.strong)+len(list.weak) > 0
		}
		opaque, weak := strings.CutPrefix(rest, "W/")
		if !strings.HasPrefix(opaque, `"`) {
			return list, false
		}
		end := strings.IndexByte(opaque[1:], '"') + 2
		if end < 2 {
			return list, false
		}
		if weak {
			list.weak = append(list.weak, opaque[:end])
		} else {
			list.strong = append(list.strong, opaque[:end])
		}
		rest = strings.TrimLeft(opaque[end:], " \t")
		if rest != "" && rest[0] != ',' {
			return list, false
		}
	}
}

// unchanged answers 304 where the caller has what the tag is of, and says in any
// case which tag it is. A header that cannot be read asks for nothing.
func unchanged(c *gin.Context, header *spec.IfNoneMatch, tag string) bool {
	c.Header("ETag", tag)
	cached(c)
	if header == nil {
		return false
	}
	// For reading, a weak tag is as good as a strong one.
	list, ok := readTags(*header)
	if !ok || !list.any && !slices.Contains(list.strong, tag) && !slices.Contains(list.weak, tag) {
		return false
	}
	c.Status(http.StatusNotModified)
	c.Writer.WriteHeaderNow()
	return true
}

// maxRevisions bounds how often a change is tried, once for each revision that
// If-Match allows.
const maxRevisions = 8

// preconditions are what a PUT's headers ask for: one of them must hold.
func preconditions(params spec.PutSKUParams) ([]order.Precondition, error) {
	var base order.Precondition
	if header := params.IfNoneMatch; header != nil {
		list, ok := readTags(*header)
		switch {
		case !ok:
			return nil, badTags("If-None-Match")
		case !list.any:
			return nil, kindInvalid.problem("A PUT takes no tags in If-None-Match.", fieldError{Field: "If-None-Match", Message: "must be *"})
		}
		base.Absent = true
	}
	if params.IfMatch == nil {
		return []order.Precondition{base}, nil
	}
	list, ok := readTags(*params.IfMatch)
	switch {
	case !ok:
		return nil, badTags("If-Match")
	case list.any:
		base.Exists = true
		return []order.Precondition{base}, nil
	}
	// Weak tags never match here: RFC 9110, 13.1.1. Nor does what is no tag of ours.
	var all []order.Precondition
	var seen []uint64
	for _, tag := range list.strong {
		revision, ours := revisionOf(tag)
		if !ours || slices.Contains(seen, revision) {
			continue
		}
		seen = append(seen, revision)
		one := base
		one.Revision = &revision
		all = append(all, one)
	}
	if len(all) == 0 {
		return nil, kindPrecondition.problem("Nothing was changed. If-Match has no ETag as this service gives it: a proxy that compresses makes it weak (W/), " +
			"or adds to it. Read the SKU again, with Accept-Encoding: identity.")
	}
	if len(all) > maxRevisions {
		return nil, kindSyntax.problem("The If-Match header allows too many revisions.",
			fieldError{Field: "If-Match", Message: fmt.Sprintf("has tags of more than %d revisions", maxRevisions)})
	}
	return all, nil
}

func badTags(header string) error {
	return kindSyntax.problem("The "+header+" header is not a list of entity tags.", fieldError{Field: header, Message: `must be * or tags like "1-7"`})
}
