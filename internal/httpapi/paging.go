package httpapi

import (
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/order"
)

// readPage reads one page of a list, and returns the cursor of the next page, or
// nil after the last. A cursor is the encoded place of the page's last item, so
// that every page takes the same time to read. parse decodes a place, place
// encodes an item's, and read lists the items after a place.
func readPage[T, Place any](a *api, cursor *spec.Cursor, limit *spec.Limit, parse func([]byte) (Place, bool), place func(*T) []byte,
	read func(after Place, limit int) ([]T, error)) ([]T, *spec.NextCursor, error) {
	var after Place
	if cursor != nil && *cursor != "" {
		bytes, err := base64.RawURLEncoding.DecodeString(*cursor)
		ok := err == nil && len(bytes) > 0
		if ok {
			after, ok = parse(bytes)
		}
		if !ok {
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
	next := base64.RawURLEncoding.EncodeToString(place(&list[size-1]))
	return list[:size], &next, nil
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

func orderPlace(o *order.Order) []byte { return o.ID[:] }

func parseOrderPlace(place []byte) (order.ID, bool) {
	id, err := uuid.FromBytes(place)
	return id, err == nil
}

// latePlace is the time in microseconds, the order's id, and the reference.
func latePlace(p *order.LatePayment) []byte {
	place := binary.BigEndian.AppendUint64(nil, uint64(p.ReceivedAt.UnixMicro()))
	return append(append(place, p.OrderID[:]...), p.Reference...)
}

func parseLatePlace(place []byte) (order.LateCursor, bool) {
	const head = 8 + len(uuid.UUID{})
	if len(place) < head || len(place) > head+maxReference {
		return order.LateCursor{}, false
	}
	at := time.UnixMicro(int64(binary.BigEndian.Uint64(place))).UTC()
	return order.LateCursor{ReceivedAt: at, OrderID: uuid.UUID(place[8:head]), Reference: string(place[head:])},
		at.Year() >= 1970 && at.Year() <= 9999
}
