package httpapi

import (
	"mime"
	"strconv"
	"strings"
)

// acceptable says whether one of types is among those that an Accept header
// takes (RFC 9110, 12.5.1): of the ranges that a type is in, the closest decides.
// No header takes anything, and so does one that cannot be read: the answer will
// say what it is.
func acceptable(header []string, types []string) bool {
	all := strings.Join(header, ",")
	if all == "" || all == "*/*" || len(types) == 0 || all == types[0] {
		return true
	}
	best := make([]struct{ closeness, quality float64 }, len(types))
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
			if closeness := within(name, media); closeness > 0 && closeness >= best[i].closeness {
				best[i].closeness, best[i].quality = closeness, quality
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

// mediaRange reads a range: text/html, text/* or */*, with a quality from 0 to 1.
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

// within says how close a range is to the media type, 0 where it is not in it.
func within(name, media string) float64 {
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
