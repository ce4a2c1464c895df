package httpapi

import (
	"mime"
	"strconv"
	"strings"
)

// acceptable reports whether an Accept header accepts one of types (RFC 9110,
// 12.5.1). The most specific range that matches a type decides. A missing or
// unreadable header accepts everything.
func acceptable(header []string, types []string) bool {
	all := strings.Join(header, ",")
	if all == "" || all == "*/*" || len(types) == 0 || all == types[0] {
		return true
	}
	best := make([]struct{ precision, quality float64 }, len(types))
	ranges := 0
	for item := range strings.SplitSeq(all, ",") {
		if strings.TrimSpace(item) == "" {
			continue
		}
		media, quality, ok := mediaRange(item)
		if !ok {
			return true
		}
		ranges++
		for i, name := range types {
			if p := precision(name, media); p > 0 && p >= best[i].precision {
				best[i].precision, best[i].quality = p, quality
			}
		}
	}
	for _, found := range best {
		if found.quality > 0 {
			return true
		}
	}
	return ranges == 0
}

// mediaRange parses a range: text/html, text/* or */*, with a quality from 0 to 1.
func mediaRange(item string) (media string, quality float64, ok bool) {
	media, parameters, err := mime.ParseMediaType(item)
	kind, name, both := strings.Cut(media, "/")
	if err != nil || !both || strings.Contains(name, "*") && name != "*" || strings.Contains(kind, "*") && media != "*/*" {
		return "", 0, false
	}
	text, given := parameters["q"]
	if !given {
		return media, 1, true
	}
	quality, err = strconv.ParseFloat(text, 64)
	return media, quality, err == nil && quality >= 0 && quality <= 1
}

// precision returns how precisely a range matches a media type; 0 means that it
// does not match.
func precision(name, media string) float64 {
	kind, _, _ := strings.Cut(name, "/")
	switch media {
	case name:
		return 3
	case kind + "/*":
		return 2
	case "*/*":
		return 1
	}
	return 0
}
