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
	for item := range strings.SplitSeq(all, ",") {
		if strings.TrimSpace(item) == "" {
			continue
		}
		media, parameters, err := mime.ParseMediaType(item)
		if err != nil {
			return true
		}
		quality := 1.0
		if text, given := parameters["q"]; given {
			if quality, err = strconv.ParseFloat(text, 64); err != nil {
				return true
			}
		}
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
	return false
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
