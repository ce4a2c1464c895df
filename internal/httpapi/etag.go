package httpapi

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// tagOf returns a SKU's entity tag. Its revision grows when an administrator changes
// the SKU, its seq with every write.
func tagOf(s *stock.Stock) string { return fmt.Sprintf(`"%d-%d"`, s.Revision, s.Seq) }

// revisionOf returns the revision in a tag of tagOf. It rejects weak tags, which never
// match here (RFC 9110, 13.1.1), and tags that a proxy has changed (Apache turns "1-7"
// into "1-7-gzip").
func revisionOf(tag string) (uint64, bool) {
	var s stock.Stock
	_, err := fmt.Sscanf(tag, `"%d-%d"`, &s.Revision, &s.Seq)
	return s.Revision, err == nil && tag == tagOf(&s)
}

// tagOfPage returns the tag of a page of SKUs, a digest of theirs.
func tagOfPage(page []stock.Stock, next *string) string {
	digest := sha256.New()
	for i := range page {
		_, _ = fmt.Fprintln(digest, page[i].SKU, tagOf(&page[i])) // a hash returns no errors
	}
	_, _ = fmt.Fprintln(digest, next != nil)
	return `"` + base64.RawURLEncoding.EncodeToString(digest.Sum(nil)[:12]) + `"` // enough to make a collision improbable
}

// tagList matches a list of entity tags (RFC 9110, 8.8.3), and oneTag each of them.
var (
	tagList = regexp.MustCompile(`^[ \t,]*((W/)?"[^"]*"[ \t]*($|,[ \t,]*))+$`)
	oneTag  = regexp.MustCompile(`(W/)?"[^"]*"`)
)

// readTags parses an If-Match or If-None-Match header. every is true for *.
func readTags(header string) (list []string, every, ok bool) {
	every = strings.TrimSpace(header) == "*"
	return oneTag.FindAllString(header, -1), every, every || tagList.MatchString(header)
}

// notModified sets the ETag and Cache-Control, and answers 304 if If-None-Match
// contains the tag. It ignores a malformed header.
func notModified(c *gin.Context, tag, caching string) bool {
	c.Header("ETag", tag)
	c.Header("Cache-Control", caching)
	list, every, ok := readTags(c.GetHeader("If-None-Match"))
	equal := func(other string) bool { return strings.TrimPrefix(other, "W/") == tag } // reads compare weakly
	if !ok || !every && !slices.ContainsFunc(list, equal) {
		return false
	}
	c.Status(http.StatusNotModified)
	c.Writer.WriteHeaderNow()
	return true
}

// maxRevisions bounds the attempts to apply a change: one for each revision in
// If-Match.
const maxRevisions = 8

// preconditions returns the alternatives that the headers If-Match and If-None-Match allow.
// One must hold.
func preconditions(ifMatch, ifNoneMatch *string) ([]order.Precondition, error) {
	var base order.Precondition
	if ifNoneMatch != nil {
		_, every, ok := readTags(*ifNoneMatch)
		switch {
		case !ok:
			return nil, badTags("If-None-Match")
		case !every:
			return nil, kindInvalid.problem("A PUT accepts no tags in If-None-Match.", fieldError{Field: "If-None-Match", Message: "must be *"})
		}
		base.Absent = true
	}
	if ifMatch == nil {
		return []order.Precondition{base}, nil
	}
	list, every, ok := readTags(*ifMatch)
	switch {
	case !ok:
		return nil, badTags("If-Match")
	case every:
		base.Exists = true
		return []order.Precondition{base}, nil
	}
	var revisions []uint64
	for _, tag := range list {
		if revision, ours := revisionOf(tag); ours && !slices.Contains(revisions, revision) {
			revisions = append(revisions, revision)
		}
	}
	switch {
	case len(revisions) == 0:
		return nil, kindPrecondition.problem("The SKU was not changed. If-Match contains no ETag of this service: a compressing proxy may have made it weak (W/) " +
			"or changed it. Read the SKU again with Accept-Encoding: identity.")
	case len(revisions) > maxRevisions:
		return nil, kindSyntax.problem("The If-Match header contains too many revisions.",
			fieldError{Field: "If-Match", Message: fmt.Sprintf("must contain at most %d revisions", maxRevisions)})
	}
	all := make([]order.Precondition, len(revisions))
	for i := range revisions {
		all[i] = base
		all[i].Revision = &revisions[i]
	}
	return all, nil
}

func badTags(header string) error {
	return kindSyntax.problem("The "+header+" header is not a list of entity tags.", fieldError{Field: header, Message: `must be * or tags like "1-7"`})
}
