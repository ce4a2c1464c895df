package mirror

import (
	"encoding/json"
	"fmt"

	"flashsale/internal/stock"
)

// Entry is the copy of one SKU's stock row: its public columns, and its seq. In
// etcd it is JSON, under the prefix and the SKU.
type Entry = stock.Stock

// replaces reports whether to write row, read from MySQL, over old, which was read
// from etcd before; nil means no entry. Every change of a row moves its seq.
func replaces(row, old *Entry) bool {
	return old == nil || row.Seq > old.Seq ||
		// A restored database has reached the same seq by other changes.
		row.Seq == old.Seq && (row.Available != old.Available || row.Units != old.Units || row.Revision != old.Revision)
}

func decodeEntry(sku string, value []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(value, &e); err != nil {
		return Entry{}, fmt.Errorf("decode %s: %w", sku, err)
	}
	if e.SKU != sku {
		return Entry{}, fmt.Errorf("decode %s: the entry is for %q", sku, e.SKU)
	}
	return e, nil
}
