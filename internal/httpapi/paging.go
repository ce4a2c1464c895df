package httpapi

import (
	"encoding/base64"
	"encoding/json"

	"flashsale/internal/httpapi/spec"
)

// readPage reads the page at a cursor, and returns the next page's cursor, or nil. A
// cursor encodes the place of a page's last item. place returns an item's place,
// valid checks a caller's, and read lists the items after a place.
func readPage[T, Place any](a *api, cursor *spec.Cursor, limit *spec.Limit, place func(*T) Place, valid func(Place) bool,
	read func(after Place, limit int) ([]T, error)) ([]T, *spec.NextCursor, error) {
	var after Place
	if cursor != nil && *cursor != "" {
		text, err := base64.RawURLEncoding.DecodeString(*cursor)
		if err != nil || json.Unmarshal(text, &after) != nil || !valid(after) {
			return nil, nil, kindInvalid.problem("See errors for each parameter.", fieldError{Field: "cursor", Message: "must be the next_cursor of a page"})
		}
	}
	size := a.pageSize
	if limit != nil {
		size = *limit
	}
	list, err := read(after, size+1)
	if err != nil || len(list) <= size {
		return list, nil, err
	}
	text, err := json.Marshal(place(&list[size-1]))
	return list[:size], new(base64.RawURLEncoding.EncodeToString(text)), err
}

// presentAll returns the items as answers show them; never nil, so that JSON has
// an empty list.
func presentAll[T, S any](items []T, present func(*T) S) []S {
	shown := make([]S, len(items))
	for i := range items {
		shown[i] = present(&items[i])
	}
	return shown
}
