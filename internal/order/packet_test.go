package order

import (
	"fmt"
	"strings"
	"testing"

	"flashsale/internal/mysqlsession"
	"flashsale/internal/stock"
)

// A server that accepts LeastPacket, which is checked at startup, accepts every group.
func TestLargestGroupFitsIntoAPacket(t *testing.T) {
	t.Parallel()
	parts := make([]Part, groupSKUs)
	for i := range parts {
		parts[i] = Part{Row: stock.Row{Stock: stock.Stock{SKU: fmt.Sprintf("%064d", i)}}, Token: 1 << 62, Orders: groupOrders / groupSKUs}
	}
	size := len(GroupText(parts...))
	// Customers and keys of full length, with two digits for each byte.
	longest := strings.Repeat("x", 255)
	size += groupOrders * 2 * len(longest+longest)
	if size > mysqlsession.LeastPacket {
		t.Errorf("a group has up to %d bytes, but the server may accept only %d", size, mysqlsession.LeastPacket)
	}
}
