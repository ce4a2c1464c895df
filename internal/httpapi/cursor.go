package httpapi

import (
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/order"
)

// A cursor is the place of a page's last item, in an encoding that callers have
// no business with. A place needs no count of what is before it, so that no page
// is longer in the reading than another.

// limit is how long the page is to be. It was checked.
func (a *api) limit(given *spec.Limit) int {
	if given == nil {
		return a.pageSize
	}
	return *given
}

// readCursor reads a cursor by parse, which is given no empty one.
func readCursor[T any](cursor *spec.Cursor, parse func(place []byte) (T, bool)) (place T, err error) {
	if cursor == nil || *cursor == "" {
		return place, nil
	}
	bytes, err := base64.RawURLEncoding.DecodeString(*cursor)
	if err == nil && len(bytes) > 0 {
		if place, ok := parse(bytes); ok {
			return place, nil
		}
	}
	return place, kindInvalid.problem("See errors for each parameter.", fieldError{Field: "cursor", Message: "must be the next_cursor of a page"})
}

// nextPage cuts what is beyond the limit off, and makes the cursor of the page
// behind, where there is one.
func nextPage[T any](list []T, limit int, place func(*T) []byte) ([]T, *spec.NextCursor) {
	if len(list) <= limit {
		return list, nil
	}
	cursor := base64.RawURLEncoding.EncodeToString(place(&list[limit-1]))
	return list[:limit], &cursor
}

func orderPlace(o *order.Order) []byte { return o.ID[:] }

func parseOrderPlace(place []byte) (order.ID, bool) {
	id, err := uuid.FromBytes(place)
	return id, err == nil
}

// latePlace is the time in microseconds, the order, and the reference.
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
