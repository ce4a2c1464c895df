package order

import (
	"fmt"
	"strings"
	"testing"

	"flashsale/internal/mysqlsession"
	"flashsale/internal/stock"
)

// A server that takes LeastPacket, which is checked at start, takes every group.
func TestLargestGroupFitsIntoAPacket(t *testing.T) {
	t.Parallel()
	parts := make([]Part, groupSKUs)
	for i := range parts {
		parts[i] = Part{Row: stock.Row{Stock: stock.Stock{SKU: fmt.Sprintf("%064d", i)}}, Token: 1 << 62, Orders: groupOrders / groupSKUs}
	}
	query, args := GroupText(parts...)
	size := len(query)
	for _, arg := range args {
		switch arg := arg.(type) {
		case []byte:
			size += len("_binary''") + 2*len(arg) // each may have to be escaped
		case string:
			size += len("''") + 2*len(arg)
		default:
			size += len("'2026-11-28 14:08:00.123456'") // the longest of the rest
		}
	}
	// In place of the short ones: each byte is two digits, or escaped.
	longest := strings.Repeat("x", 255)
	size += groupOrders * 2 * len(longest+longest)
	if size > mysqlsession.LeastPacket {
		t.Errorf("a group has up to %d bytes, the server has to take %d", size, mysqlsession.LeastPacket)
	}
}
